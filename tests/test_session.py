"""What a session refuses before anything runs, and how rows keep their places."""

from pathlib import Path

import numpy as np
import pytest

from pipeline import layout
from pipeline.errors import UserError
from pipeline.runtime import open_engine
from pipeline.session import Runtime
from pipeline.signature import Signature


@pytest.fixture(scope="module")
def engine(tiny: tuple[Path, Signature]) -> Runtime:
    """The tiny engine: batch up to 4, prefill up to 32 tokens, cache of 64."""
    return open_engine(tiny[0] / layout.ENGINE)


@pytest.mark.parametrize(
    ("lengths", "tokens", "message"),
    [
        ([0], [[]], "no row has a token"),
        ([0], [[1], [2]], "2 rows of tokens"),
        ([0], [list(range(33))], "was not built for batch 1 x sequence 33"),
        ([64], [[1]], "1 new tokens, padded to 1, do not fit row 0, which holds 64 of 64"),
        ([50], [list(range(20))], "do not fit row 0, which holds 50 of 64"),
        ([60, 0], [[1], list(range(20))], "1 new tokens, padded to 20, do not fit row 0"),
        ([60, 0], [[], list(range(20))], "0 new tokens, padded to 20, do not fit row 0"),
    ],
)
def test_impossible_steps_are_refused(
    engine: Runtime, lengths: list[int], tokens: list[list[int]], message: str
) -> None:
    """Each with its one message, and with cache and lengths as they were."""
    session = engine.session(len(lengths))
    session.lengths[:] = lengths
    before = [cache.copy() for cache in session.caches]
    with pytest.raises(UserError, match=message):
        session.step(tokens)
    assert session.lengths.tolist() == lengths
    assert all(np.array_equal(a, b) for a, b in zip(before, session.caches, strict=True))


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


def test_long_steps_run_in_pieces(engine: Runtime) -> None:
    """A step of more tokens than a piece gives the logits and caches of one that is run at once, ragged rows too."""
    rows = [list(range(1, 12)), [7, 8, 9], [3] * 8]
    whole, pieces = engine.session(3), engine.session(3)
    pieces.piece = 4
    for tokens in (rows, [[1] * 9, [2], []], [[5], [6], [7]]):
        np.testing.assert_allclose(pieces.step(tokens)[:2], whole.step(tokens)[:2], atol=1e-5)
        assert pieces.lengths.tolist() == whole.lengths.tolist()
    for got, want in zip(pieces.caches, whole.caches, strict=True):
        for row, used in enumerate(whole.lengths):
            np.testing.assert_allclose(got[row, :, :used], want[row, :, :used], atol=1e-5)


def test_reset_starts_over(engine: Runtime) -> None:
    """After a reset the same tokens give the same logits, whatever the cache still holds."""
    session = engine.session(1)
    first = session.step([[3, 1, 4]])
    session.step([[1, 5]])
    session.reset()
    assert np.array_equal(session.step([[3, 1, 4]]), first)
