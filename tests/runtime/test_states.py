"""Sessions over models with states: what a row reads never depends on other rows, or on the text before."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage.configurations import tiny as tiny_configuration
from pipeline import engine, quantize
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.runtime import engine_info
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session
from tests.support.points import build_once

KINDS = ("lfm2", "qwen3_5_text", "mamba")


@pytest.fixture(scope="module", params=KINDS)
def runtime(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """An engine of a tiny hybrid, or of a recurrent model."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_configuration(request.param)
    build_once(
        folder, [], engine, model={"source": "random", "architecture": request.param, "config": config, "seed": 0}
    )
    assert engine_info.read(folder / layout.ENGINE).raw["format"] == 3  # which older code refuses
    return open_engine(folder / layout.ENGINE)


def texts(count: int, longest: int) -> list[list[int]]:
    """Random rows of different lengths."""
    rng = np.random.default_rng(count)
    return [rng.integers(3, 256, longest - 3 * row).tolist() for row in range(count)]


def held(session: Session, row: int) -> list[np.ndarray]:  # type: ignore[type-arg]  # of fp32
    """A row's states."""
    return [state[row].copy() for state in session.read_states()]


def test_a_ragged_batch_equals_each_row_alone(runtime: Runtime) -> None:
    """In each step in which the row has tokens, and in its states after the last."""
    steps = [texts(3, 12), [[7], [], [9]], [[8, 1], [5], [4, 2, 6]], [[3], [3], [3]]]
    together = runtime.session(3)
    logits = [together.step(step) for step in steps]
    for row in range(3):
        alone = runtime.session(1)
        for step, answer in zip(steps, logits, strict=True):
            if step[row]:
                np.testing.assert_allclose(answer[row], alone.step([step[row]])[0], rtol=0, atol=2e-5)
        for got, want in zip(held(together, row), held(alone, 0), strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_an_idle_row_keeps_its_states(runtime: Runtime) -> None:
    """Bit by bit, whatever the other row reads."""
    session = runtime.session(2)
    session.step(texts(2, 9))
    before = held(session, 1)
    session.step([[5, 6, 7, 8], []])
    session.step([[5], []])
    assert all(np.array_equal(a, b) for a, b in zip(before, held(session, 1), strict=True))


def test_a_row_begins_anew(runtime: Runtime) -> None:
    """After a reset, after its length is set to 0 beside one that goes on, and where it was idle while it was empty."""
    first, second = texts(2, 10)
    session = runtime.session(2)
    want = session.step([second, first])
    session.step([[3], [4]])
    session.reset()
    np.testing.assert_array_equal(session.step([second, first]), want)
    session.lengths[0] = 0
    assert np.isfinite(session.step([[], [9]])[1]).all()
    again = session.step([second, []])
    np.testing.assert_allclose(again[0], want[0], rtol=0, atol=2e-5)


def test_tokens_cannot_be_taken_back(runtime: Runtime) -> None:
    """The states hold them."""
    session = runtime.session(2)
    session.step(texts(2, 8))
    session.lengths[1] -= 1
    with pytest.raises(UserError, match="row 1 was set from 5 to 4 tokens, and the model's states hold all 5"):
        session.step([[1], [2]])
    session.lengths[1] = 0
    session.step([[1], [2]])


def test_quantized_weights(tmp_path: Path) -> None:
    """Products with weights are quantized; states stay as they are."""
    config = tiny_configuration("lfm2")
    model = {"source": "random", "architecture": "lfm2", "config": config, "seed": 0}
    contract = build_once(tmp_path, ["precision=int4"], quantize, model=model)
    assert {tensor.dtype for tensor in contract.states} == {"float32"}
