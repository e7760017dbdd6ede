"""quality: the figures are what they are called, and a damaged engine misses them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.schema import Model, Quality, Verify, section
from pipeline.proof import quality
from pipeline.proof.reference import Reference
from pipeline.proof.results import Result
from pipeline.runtime.open import open_engine
from tests.support.gates import quality as options_of
from tests.support.points import build_once


@pytest.fixture(scope="module")
def reference(tiny: tuple[Path, GraphContract]) -> Reference:
    """The original."""
    return Reference(loading.load(section(Model, tiny[0]), None))


def measured(folder: Path, reference: Reference, options: Quality) -> Result:
    """The engine of a point over random tokens."""
    return quality.measure(
        open_engine(folder / layout.ENGINE), reference, quality.windows(folder, options, 512, 0), options
    )


@pytest.mark.parametrize("held", [2**24, 3 * 512, 1])
def test_perplexity_is_that_of_plain_forwards(
    tiny: tuple[Path, GraphContract], reference: Reference, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 windows of 20 and one of 5, all at once, in chunks of any size: exp of the mean cross-entropy of torch."""
    monkeypatch.setattr(quality, "CHUNK", held)
    options = options_of(tokens=225, window=20)
    losses = []
    windows = quality.windows(tiny[0], options, 512, 0)
    for window in windows:
        ids = torch.tensor([window])
        logits = reference.model(ids).logits[0, :-1].detach()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    figures = measured(tiny[0], reference, options).figures
    assert [len(window) for window in windows] == [20] * 11 + [5]
    assert figures["predicted_tokens"] == 11 * 19 + 4
    assert figures["perplexity_original"] == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(figures["perplexity_original"], rel=1e-5)


def test_a_sound_engine_passes(tiny: tuple[Path, GraphContract], reference: Reference) -> None:
    """No failure, and differences of rounding only."""
    result = measured(tiny[0], reference, section(Verify, tiny[0]).quality)
    assert result.failures == []
    assert abs(result.figures["perplexity_increase"]) < 1e-5
    assert abs(result.figures["mean_kl"]) < 1e-8
    assert result.figures["top1"] == 1


def scaled(values: np.ndarray) -> np.ndarray:
    """5% off."""
    return values * np.float32(1.05)


def noisy(values: np.ndarray) -> np.ndarray:
    """Noise of 5% of the weights' spread."""
    noise = np.random.default_rng(0).standard_normal(values.shape, np.float32)
    return values + noise * np.float32(0.05) * values.std()


def broken(values: np.ndarray) -> np.ndarray:
    """Not a number."""
    return values * np.float32(np.nan)


@pytest.mark.parametrize("damage", [scaled, noisy, broken])
def test_a_damaged_engine_fails_by_name(
    tiny_copy: Callable[[], Path], reference: Reference, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    """One matrix of one layer: every gate that is missed is named with its key, and broken numbers miss them all."""
    folder = tiny_copy()
    path = folder / layout.ENGINE / layout.MODEL
    model = onnx.load(path)
    matrix = next(t for t in model.graph.initializer if "layers.1.mlp.down_proj" in t.name)
    matrix.CopyFrom(onnx.numpy_helper.from_array(damage(onnx.numpy_helper.to_array(matrix)), matrix.name))
    onnx.save(model, path)
    failures = measured(folder, reference, section(Verify, folder).quality).failures
    if damage is broken:
        assert "not finite" in failures[0]
        assert any(failure.startswith("top1 is 0") for failure in failures)
    else:
        assert any("mean_kl is" in failure and "verify.quality.kl is 1e-06" in failure for failure in failures)


def test_carried_over_weights_have_a_gate_of_their_own(
    tiny: tuple[Path, GraphContract], reference: Reference, tmp_path: Path
) -> None:
    """Only where all weights of 4 bits come from the file, and only if there is such a gate."""
    options = replace(section(Verify, tiny[0]).quality, perplexity=1.0, perplexity_carried_over=-1.0)
    runtime, windows = open_engine(tiny[0] / layout.ENGINE), quality.windows(tiny[0], options, 512, 0)
    (failure,) = quality.measure(runtime, reference, windows, options, carried_over=True).failures
    assert "verify.quality.perplexity_carried_over is -1" in failure
    none = replace(options, perplexity_carried_over=None)
    for carried, gates in ((False, options), (True, none)):
        assert quality.measure(runtime, reference, windows, gates, carried_over=carried).failures == []

    four, eight = {"bits": 4, "rows": 2, "carried_over": 2}, {"bits": 8, "rows": 2, "carried_over": 0}
    part, own = four | {"carried_over": 1}, eight | {"carried_over": 2}
    for tensors, carried in (
        ([four, eight], True),
        ([four, part], False),
        ([own, part], False),
        ([eight], False),
        ([eight, own], True),  # a file whose blocks all need more than 4 bits
    ):
        write_json(tmp_path / layout.QUANTIZED / layout.QUANTIZATION, {"tensors": tensors})
        assert quality.carried_over(tmp_path) == carried


def test_logits_at_every_position(tmp_path: Path) -> None:
    """wrap.logits=all: a step of one token has one position, and the figures are the same."""
    build_once(tmp_path, ["wrap.logits=all"])
    original = Reference(loading.load(section(Model, tmp_path), None))
    assert measured(tmp_path, original, section(Verify, tmp_path).quality).failures == []


def test_windows_begin_as_the_tokenizer_begins_a_text(speaking: Path) -> None:
    """The start token takes one place in each window; a shorter rest is kept, and a longer text is cut."""
    options = options_of(text="", tokens=25, window=11)
    windows = quality.windows(speaking, options, 100, 0)
    assert windows == [[0, *range(1, 11)], [0, *range(11, 21)], [0, *range(21, 26)]]


def test_a_short_text_is_read_whole(speaking: Path) -> None:
    """99 words where 8192 tokens are wanted."""
    windows = quality.windows(speaking, options_of(text="", tokens=8192, window=512), 100, 0)
    assert windows == [list(range(100))]


def test_a_text_of_less_than_two_tokens(speaking: Path) -> None:
    """There is nothing to predict, and the key says where that comes from."""
    (speaking / layout.TEXT).write_text("\t")
    with pytest.raises(UserError, match="2 tokens or more"):
        quality.windows(speaking, options_of(text="", tokens=8192, window=512), 100, 0)


def test_random_tokens_without_a_tokenizer(tiny: tuple[Path, GraphContract]) -> None:
    """The same for the same seed, inside the vocabulary, in windows of the size asked for."""
    options = options_of(tokens=64, window=32)
    one, same, other = (quality.windows(tiny[0], options, 512, seed) for seed in (0, 0, 1))
    assert one == same != other
    assert [len(window) for window in one] == [32, 32]
    assert all(0 <= token < 512 for window in one for token in window)


def test_more_rows_than_the_profiles_change_no_figure(
    tiny: tuple[Path, GraphContract], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime on the CPU takes any batch; the engine that was opened keeps to its profiles."""
    engine = open_engine(tiny[0] / layout.ENGINE)
    windows = quality.windows(tiny[0], options_of(tokens=225, window=20), 512, 0)
    options = section(Verify, tiny[0]).quality
    many = quality.measure(engine, reference, windows, options).figures
    monkeypatch.setattr(quality, "ROWS", 3)
    few = quality.measure(engine, reference, windows, options).figures
    assert many == pytest.approx(few, rel=1e-5, abs=1e-9)
    with pytest.raises(UserError, match="not built for batch 12"):
        engine.session(12)
