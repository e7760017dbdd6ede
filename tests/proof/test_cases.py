"""The catalog covers what the proof promises, whatever the sizes."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.proof.cases import Case, catalog, not_run
from tests.support.profiles import profiles

DEFAULT = profiles(prefill=((1, 8), (1, 512)), decode=((1, 8), (1, 1)))


def test_default_profiles_run_every_kind_of_case() -> None:
    """13 cases; sizes of batch and sequence from 1 to the largest; the last slot of the cache is written."""
    cases = catalog(DEFAULT, 1024)
    sizes = {size for case in cases for size in case.sizes()}
    assert len(cases) == 13
    assert {batch for batch, _ in sizes} == {1, 2, 3, 8}
    assert {1, 2, 5, 10, 30, 512} <= {sequence for _, sequence in sizes}
    assert max(case.written(0) for case in cases) == 1024


@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 64), st.integers(1, 70))
def test_every_case_fits(batch: int, sequence: int, cache_size: int, limit: int) -> None:
    """No case leaves the profiles or the cache, and one token is always among them."""
    taken = profiles(prefill=((1, batch), (1, sequence)))
    cases = catalog(taken, cache_size, (limit,))
    assert "one token" in {case.name for case in cases}
    for case in cases:
        for rows, tokens in case.sizes():
            assert rows <= batch
            assert tokens <= sequence
        assert all(case.written(row) <= cache_size for row in range(case.batch))


def test_written_counts_padding() -> None:
    """Row 0 has 2 tokens padded to 5, then 1: slots up to 3 + 5 may hold padding."""
    assert Case("", (3, 0), ((2, 5), (1, 1))).written(0) == 8


@given(st.integers(1, 9), st.integers(1, 40), st.integers(2, 64))
def test_no_case_is_left_out_in_silence(batch: int, sequence: int, cache_size: int) -> None:
    """Each of the 13 cases either runs or is named with what it lacks."""
    taken = profiles(prefill=((1, batch), (1, sequence)))
    ran, left = {case.name for case in catalog(taken, cache_size)}, not_run(taken, cache_size)
    assert len(ran) + len(left) == 13
    assert ran.isdisjoint(left)


def test_why_a_case_is_left_out() -> None:
    """A cache that is too small, a profile that takes no such step, a batch in which rows cannot differ."""
    one = profiles(prefill=((1, 1), (1, 8)))
    assert not_run(one, 64)["ragged prefill"] == "needs 2 rows, the profiles take 1"
    assert not_run(one, 8)["non-zero start"] == "needs a cache of 16 slots, cache.size is 8"
    gap = profiles(prefill=((1, 4), (4, 8)), decode=((1, 1), (1, 1)))
    assert not_run(gap, 64)["ragged decode"] == "no profile takes batch 3 x sequence 1"
    assert not_run(DEFAULT, 1024) == {}


@given(st.integers(1, 9), st.integers(1, 40), st.integers(8, 300), st.integers(2, 300))
def test_rows_stand_on_both_sides_of_each_limit(batch: int, sequence: int, cache_size: int, limit: int) -> None:
    """A case for each limit inside the cache: row 0 crosses it where there is room; others stay below or lie beyond."""
    taken = profiles(prefill=((1, batch), (1, sequence)))
    cases = [case for case in catalog(taken, cache_size, (limit,)) if "both sides" in case.name]
    assert len(cases) == (limit < cache_size and batch > 1)
    for case in cases:
        ends = [case.cached[row] + sum(step[row] for step in case.steps) for row in range(case.batch)]
        if limit + 10 < cache_size:
            assert case.cached[0] < limit < ends[0]
        if limit + 10 < cache_size and limit > 3 and batch > 2:
            assert ends[1] <= limit < case.cached[2]
