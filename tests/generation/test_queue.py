"""queue: texts of any number and length through few rows, each as if it were alone."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.generation import queue
from pipeline.generation.queue import Text
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime
from pipeline.text.sampling import GREEDY, Sampling


@pytest.fixture(scope="module")
def runtime(tiny: tuple[Path, GraphContract]) -> Runtime:
    """The tiny engine."""
    return open_engine(tiny[0] / layout.ENGINE)


def texts() -> list[Text]:
    """Seven prompts of 1 to 40 tokens, longer than a profile takes at once, with limits of 1 to 19."""
    rng = np.random.default_rng(0)
    lengths = (10, 1, 40, 3, 25, 7, 2)
    return [Text(i, rng.integers(0, 512, n).tolist(), 1 + 3 * i) for i, n in enumerate(lengths)]


def run(runtime: Runtime, batch: int, sampling: Sampling, stop: frozenset[int] = frozenset()) -> dict[int, list[int]]:
    """The new tokens of each text."""
    return {text.index: text.new for text in queue.run(runtime.session(batch), texts(), sampling, stop)}


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(2.0, seed=3, repetition_penalty=1.2)])
def test_a_text_does_not_depend_on_others(runtime: Runtime, sampling: Sampling) -> None:
    """In one row after the other, or beside others in two and four: the same tokens, also those drawn at random."""
    alone = run(runtime, 1, sampling)
    assert {index: len(new) for index, new in alone.items()} == {i: 1 + 3 * i for i in range(7)}
    assert run(runtime, 2, sampling) == run(runtime, 4, sampling) == alone


def test_what_ends_a_text(runtime: Runtime) -> None:
    """A stop token, which it does not get, or its own condition; the others go on."""
    free = run(runtime, 2, GREEDY)
    stop = free[6][4]
    cut = {index: new[: new.index(stop)] if stop in new else new for index, new in free.items()}
    assert run(runtime, 2, GREEDY, frozenset({stop})) == cut
    asked = texts()
    asked[5].ended = lambda: len(asked[5].new) == 2
    found = {text.index: text.new for text in queue.run(runtime.session(2), asked, GREEDY, frozenset())}
    assert found == free | {5: free[5][:2]}
