"""What a session refuses before anything runs, and how rows keep their places."""

import copy
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime
from tests.support.points import build_once
from tests.support.profiles import profiles


@pytest.fixture(scope="module")
def engine(tiny: tuple[Path, GraphContract]) -> Runtime:
    """The tiny engine: batch up to 4, prefill up to 32 tokens, cache of 64."""
    return open_engine(tiny[0] / layout.ENGINE)


@pytest.mark.parametrize(
    ("lengths", "tokens", "messages"),
    [
        ([0], [[]], ["no row has a token"]),
        ([0], [[1], [2]], ["2 rows of tokens"]),
        ([64], [[1]], ["1 new tokens do not fit row 0, which holds 64 of 64"]),
        ([50], [list(range(20))], ["20 new tokens do not fit row 0, which holds 50 of 64"]),
        ([60, 0, 64], [[1] * 5, [1] * 20, [2]], ["5 new tokens do not fit row 0", "1 new tokens do not fit row 2"]),
        ([0], [[1, 512]], ["token 512 at index 1 of row 0 is not in the vocabulary, 0 to 511"]),
        ([0], [[-1]], ["token -1 at index 0 of row 0"]),
        ([0, 0], [[3, 10**12, -1], [2**70]], [f"token {10**12} at index 1 of row 0", f"token {2**70} at index 0 of"]),
        ([64, 0], [[1], [512]], ["token 512 at index 0 of row 1", "1 new tokens do not fit row 0"]),
        ([0, 0], [[1.7], [2]], ["1.7 of type float at index 0 of row 0 is not a token id"]),
        ([0, 0], [[3, True], ["a"]], ["True of type bool at index 1 of row 0", "'a' of type str at index 0 of row 1"]),
        (
            [0, 0],
            [np.array([1.0]), [[2]]],
            ["np.float64(1.0) of type float64 at index 0 of row", "[2] of type list at"],
        ),
        ([0, 0, 0], [None, 5, "ab"], ["row 0 is None of type NoneType, not a list", "row 1 is 5", "row 2 is 'ab'"]),
        ([0], [np.array(3)], ["row 0 is array(3) of type ndarray"]),
        ([0], None, ["tokens is None of type NoneType, not a list of rows"]),
    ],
)
def test_impossible_steps_are_refused(engine: Runtime, lengths: list[int], tokens: Any, messages: list[str]) -> None:
    """With every problem of every row, and with cache and lengths as they were."""
    session = engine.session(len(lengths))
    session.lengths[:] = lengths
    before = [cache.copy() for cache in session.caches]
    with pytest.raises(UserError) as error:
        session.step(tokens)
    for problem, message in zip(error.value.problems, messages, strict=True):
        assert problem.what.startswith(message)
    assert session.lengths.tolist() == lengths
    assert all(np.array_equal(a, b) for a, b in zip(before, session.caches, strict=True))


def test_integers_of_every_kind(engine: Runtime) -> None:
    """NumPy's, in lists and arrays; tuples and ranges as rows."""
    rows = [[np.int32(3), 4], np.array([3, 4]), (3, np.uint8(4)), range(3, 5)]
    want = engine.session(4).step([[3, 4]] * 4)
    np.testing.assert_array_equal(engine.session(4).step(rows), want)  # type: ignore[arg-type]


def test_too_large_a_batch_is_refused(engine: Runtime) -> None:
    """The message gives the profiles and the key to change."""
    with pytest.raises(UserError, match=r"not built for batch 5 .*prefill: batch 1-4(.|\n)*profile\.\*\.batch\.max"):
        engine.session(5)


def test_an_idle_row_keeps_its_place(engine: Runtime) -> None:
    """A row that sits out two steps, even a full one, goes on as if they had not been."""
    session, alone = engine.session(2), engine.session(1)
    alone.step([[5, 6, 7]])
    session.step([[5, 6, 7], [1]])
    before = [cache[0, :, :3].copy() for cache in session.caches]
    for _ in range(2):
        session.step([[], [9]])
    assert all(np.array_equal(cache[0, :, :3], b) for cache, b in zip(session.caches, before, strict=True))
    np.testing.assert_allclose(session.step([[8], [2]])[0], alone.step([[8]])[0], atol=1e-5)
    session.lengths[0] = 64
    session.step([[], [3]])
    assert session.lengths.tolist() == [64, 5]


def alone(engine: Runtime, row: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The logits and the used part of the caches of one row that is fed token by token."""
    session = engine.session(1)
    for token in row:
        logits = session.step([[token]])
    return logits[0], [cache[0, :, : len(row)] for cache in session.caches]


@pytest.mark.parametrize(
    ("steps", "chunks"),
    [
        ([[[1] * 40]], [[32, 8]]),  # longer than profile.prefill
        ([[[1] * 64]], [[32, 32]]),
        ([[[1] * 11, [7, 8, 9], [3] * 40], [[5], [6], [7]]], [[32, 8], [1]]),
        ([[[1] * 60, [2]], [[3], [4] * 20]], [[32, 28], [4, 3, 3, 3, 3, 3, 1]]),  # padding would pass the end of row 0
        ([[[1] * 60, [2]], [[], [4] * 20]], [[32, 28], [4, 4, 4, 4, 4]]),
        ([[[1] * 62, [2]], [[3] * 2, [4] * 6]], [[32, 30], [2, 1, 1, 1, 1]]),  # row 0 is full after the first chunk
    ],
)
def test_long_steps_run_in_chunks(engine: Runtime, steps: list[list[list[int]]], chunks: list[list[int]]) -> None:
    """As long as the profiles and every row's room allow; each row gets what it gets alone, token by token."""
    session = engine.session(len(steps[0]))
    fed: list[list[int]] = [[] for _ in steps[0]]
    for tokens, lengths in zip(steps, chunks, strict=True):
        assert session.check(tokens) == lengths
        logits = session.step(tokens)
        for row, new in enumerate(tokens):
            fed[row] += new
    assert session.lengths.tolist() == [len(row) for row in fed]
    for row, all_tokens in enumerate(fed):
        want, caches = alone(engine, all_tokens)
        if steps[-1][row]:
            np.testing.assert_allclose(logits[row], want, atol=1e-5)
            assert logits[row].argmax() == want.argmax()
        kept = min(len(all_tokens), 63)  # what is said of a full row's last slot
        for got, cache in zip(session.caches, caches, strict=True):
            np.testing.assert_allclose(got[row, :, :kept], cache[:, :kept], atol=1e-5)


def test_chunks_can_be_shorter_than_the_profile(engine: Runtime) -> None:
    """A session with a limit of its own gives the logits and caches of one without, ragged rows too."""
    rows = [list(range(1, 12)), [7, 8, 9], [3] * 8]
    whole, chunks = engine.session(3), engine.session(3)
    chunks.chunk = 4
    for tokens in (rows, [[1] * 9, [2], []], [[5], [6], [7]]):
        np.testing.assert_allclose(chunks.step(tokens)[:2], whole.step(tokens)[:2], atol=1e-5)
        assert chunks.lengths.tolist() == whole.lengths.tolist()
    for got, want in zip(chunks.caches, whole.caches, strict=True):
        for row, used in enumerate(whole.lengths):
            np.testing.assert_allclose(got[row, :, :used], want[row, :, :used], atol=1e-5)


def test_chunks_of_all_logits_are_zero_at_padding(tmp_path: Path) -> None:
    """With wrap.logits=all, in one chunk or several: 0 behind a row's own tokens, and in all of an idle row."""
    build_once(tmp_path, ["wrap.logits=all"])
    engine = open_engine(tmp_path / layout.ENGINE)
    tokens = [[1], [5, 6, 7, 8, 9, 10], []]
    whole, chunks = engine.session(3), engine.session(3)
    chunks.chunk = 2
    want, got = whole.step(tokens), chunks.step(tokens)
    assert chunks.check(tokens) == [2, 2, 2]
    assert got.shape == want.shape == (3, 6, 512)
    np.testing.assert_allclose(got, want, atol=1e-5)
    for logits in (got, want):
        assert not logits[0, 1:].any()
        assert not logits[2].any()
        assert logits[0, 0].all()
        assert logits[1].all()


def narrow(engine: Runtime, *sequences: tuple[int, int]) -> Runtime:
    """The engine as if it had been built for other lengths of a chunk, of up to 2 rows."""
    other = copy.copy(engine)
    other.profiles = profiles(**{f"p{i}": ((1, 2), ends) for i, ends in enumerate(sequences)})
    return other


@pytest.mark.parametrize(
    ("sequences", "lengths", "counts", "says"),
    [
        (
            [(2, 4)],
            [63, 0],
            [1, 4],
            [
                "runs 2 to 4 tokens of every row at once, and too few of the 64 slots are left in row 0 (1)",
                "size=67 or",
            ],
        ),
        ([(2, 4)], [0, 0], [1, 0], ["not built for batch 2 x sequence 1 ", "profile.*.sequence.min of 1 or less"]),
        ([(2, 4)], [0, 0], [1, 5], ["not built for batch 2 x sequence 5 ", "profile.*.sequence.max of 5 or more"]),
        ([(4, 8)], [0, 0], [1, 6], ["runs 4 to 8 tokens of every row at once, and this session at most 3", "min=1"]),
    ],
)
def test_why_no_chunks_fit(
    engine: Runtime, sequences: list[tuple[int, int]], lengths: list[int], counts: list[int], says: list[str]
) -> None:
    """One problem that names what is in the way: a nearly full row, the profiles or the session's own limit."""
    session = narrow(engine, *sequences).session(2)
    session.chunk = 3 if "session" in says[0] else None
    session.lengths[:] = lengths
    with pytest.raises(UserError) as error:
        session.step([[1] * count for count in counts])
    (found,) = error.value.problems
    assert says[0] in found.what
    assert says[1] in found.fix
    assert session.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("prefill", "decode", "count", "chunks"),
    [
        ((8, 32), (1, 1), 5, [1] * 5),  # too short for prefill
        ((8, 32), (1, 1), 43, [32, 11]),
        ((8, 32), (1, 1), 34, [32, 1, 1]),
        ((2, 8), (1, 4), 21, [8, 8, 5]),
        ((8, 32), (4, 4), 37, None),  # a profile of whole chunks, and none of one token
    ],
)
def test_chunks_keep_to_the_profiles(
    engine: Runtime, prefill: tuple[int, int], decode: tuple[int, int], count: int, chunks: list[int] | None
) -> None:
    """Their shortest sequence counts as well as their longest; what no profile takes is refused, and nothing runs."""
    other = copy.copy(engine)
    other.profiles = profiles(prefill=((1, 1), prefill), decode=((1, 1), decode), other=((2, 4), (1, 64)))
    session = other.session(1)
    if chunks is None:
        with pytest.raises(UserError, match="was not built for batch 1 x sequence 37"):
            session.step([[1] * count])
        assert session.lengths.tolist() == [0]
    else:
        assert session.check([[1] * count]) == chunks
        np.testing.assert_allclose(session.step([[1] * count])[0], alone(engine, [1] * count)[0], atol=1e-5)


def test_stored_caches_are_copied(engine: Runtime) -> None:
    """Other arrays than `read_caches` gave may go away at once: the session holds no memory but its own."""
    session, other = engine.session(2), engine.session(2)
    prompt = [[1, 2, 3, 4], [5, 6]]
    want = [session.step(prompt), session.step([[7], [8]])][1]
    other.step(prompt)
    copies = [cache.copy() for cache in other.read_caches()]
    other.reset()
    other.step([[9] * 30, [10] * 30])
    other.write_caches(copies)
    other.lengths[:] = [4, 2]
    for cache in copies:
        cache[...] = np.nan
    del copies
    gc.collect()
    np.testing.assert_array_equal(other.step([[7], [8]]), want)


def test_caches_cannot_be_exchanged(engine: Runtime) -> None:
    """Neither the list nor what stands in it: the runtime is bound to the memory of the arrays. A wrong shape is
    refused."""
    session = engine.session(1)
    with pytest.raises(AttributeError):
        session.caches = [cache.copy() for cache in session.caches]  # type: ignore[misc]
    own = session.caches[0]
    session.caches[0] = own.copy()
    assert session.caches[0] is own
    with pytest.raises(ValueError, match="shape"):
        session.write_caches([cache[:, :1] for cache in session.caches])
    with pytest.raises(ValueError, match="shorter"):
        session.write_caches(session.caches[:-1])


def test_reset_starts_over(engine: Runtime) -> None:
    """After a reset the same tokens give the same logits, whatever the cache still holds."""
    session = engine.session(1)
    first = session.step([[3, 1, 4]])
    session.step([[1, 5]])
    session.reset()
    assert np.array_equal(session.step([[3, 1, 4]]), first)
