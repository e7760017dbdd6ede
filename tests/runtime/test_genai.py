"""Genai: an engine for clients in onnxruntime-genai, with its own masks and positions."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.runtime import genai
from pipeline.runtime.open import open_engine

Point = tuple[Path, GraphContract]
installed = pytest.mark.skipif(genai.why_unavailable() is not None, reason=str(genai.why_unavailable()))


@installed
def test_a_ragged_batch(client: Point) -> None:
    """As in our session, with the token that is meant to end rows (the last of the vocabulary) and the
    model's own stop token among the others."""
    folder = client[0] / layout.ENGINE
    ours, runtime = open_engine(folder).session(2), genai.Genai(folder)
    theirs = runtime.session(2)
    for tokens in ([[1, 2, 3, 4], [5, 6]], [[7], [2]], [[511], [9]], [[10], [11]]):
        np.testing.assert_allclose(theirs.step(tokens), ours.step(tokens), atol=1e-5)
    assert runtime.end == 510
    ours.reset()
    theirs.reset()
    np.testing.assert_allclose(theirs.step([[3], [4, 5]]), ours.step([[3], [4, 5]]), atol=1e-5)


@installed
def test_chunks_of_one_row(client: Point) -> None:
    """It takes as many tokens as there are, after others too."""
    folder = client[0] / layout.ENGINE
    ours, theirs = open_engine(folder).session(1), genai.Genai(folder).session(1)
    for tokens in ([[1, 2, 3, 4]], [[511, 6]], [[7]], [[8, 9, 10]]):
        np.testing.assert_allclose(theirs.step(tokens), ours.step(tokens), atol=1e-5)


@installed
def test_what_it_does_not_take_is_refused(client: Point) -> None:
    """Before anything runs."""
    session = genai.Genai(client[0] / layout.ENGINE).session(2)
    with pytest.raises(UserError, match="gives every row a token"):
        session.step([[1, 2], []])
    session.step([[1, 2], [3]])
    with pytest.raises(UserError, match="into empty caches only"):
        session.step([[1, 2], [3]])


@installed
@pytest.mark.parametrize(
    ("cached", "steps", "why"),
    [
        ((0, 0), ((4, 2), (1, 1)), ""),
        ((0,), ((4,), (3,)), ""),
        ((3,), ((1,),), "does not let its caches be filled"),
        ((0, 0), ((4, 2), (1, 3)), "into empty caches only"),
        ((0, 0), ((4, 2), (1, 0)), "gives every row a token in every step"),
        ((0,) * 33, ((1,) * 33,), "takes 32 rows at most"),
    ],
)
def test_which_cases_it_expresses(
    client: Point, cached: tuple[int, ...], steps: tuple[tuple[int, ...], ...], why: str
) -> None:
    """Verify says so of the others."""
    found = genai.Genai(client[0] / layout.ENGINE).inexpressible(cached, steps)
    assert why in found
    assert bool(why) == bool(found)


def test_it_is_refused_where_it_is_not_installed(client: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(genai, "PACKAGE", "no-such-package")
    with pytest.raises(UserError, match="no-such-package is not installed"):
        genai.Genai(client[0] / layout.ENGINE)
