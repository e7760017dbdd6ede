"""X^T X from the graph against PyTorch's own inputs; and which tokens are read."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Calibration, Model, section
from pipeline.graph import onnx_file
from pipeline.proof.reference import Reference
from pipeline.quantization import caches, calibration
from pipeline.quantization.find import find


def inputs_of(point: Path) -> dict[str, str]:
    """The input of each linear layer's weight: names in the graph."""
    found = find(onnx_file.load(point / layout.SIMPLIFIED).graph, 0)
    return {str(w.value.name): str(w.readers[0].inputs[0].name) for w in found if not w.is_table}  # type: ignore[union-attr]


def test_hessians_are_those_of_pytorch(tiny: tuple[Path, GraphContract]) -> None:
    """Of all layers, over windows of several lengths."""
    point, contract = tiny
    windows = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]
    names = inputs_of(point)
    found = calibration.hessians(point / layout.SIMPLIFIED, contract, set(names.values()), windows)
    model = loading.load(section(Model, point), point / layout.CHECKPOINT)
    packed = {"model.layers.1.mlp.up_proj": "model.layers.1.mlp.gate_up_proj"}
    for layer in ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj", *packed):
        seen: list[torch.Tensor] = []
        hook = model.get_submodule(layer).register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0][0])
        )
        with torch.inference_mode():
            for window in windows:
                model(torch.tensor([window]))
        hook.remove()
        x = torch.cat(seen)
        assert len(x) == 11
        np.testing.assert_allclose(
            found[names[f"{packed.get(layer, layer)}.weight"]], (x.T @ x).numpy(), rtol=1e-3, atol=1e-3
        )


def test_numbers_that_are_not_finite(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """A model that overflows on the text cannot be calibrated on it, and the error says what can be done."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    name = next(name for name in model.graph.initializers if "embed" in name)
    model.graph.initializers[name].const_value = ir.tensor(np.full((512, 64), np.inf, np.float32), name=name)
    onnx_file.save(model, tmp_path)
    with pytest.raises(UserError, match="not finite"):
        calibration.hessians(tmp_path, tiny[1], set(inputs_of(tiny[0]).values()), [[1, 2, 3]])


def test_random_tokens_without_a_tokenizer(tiny: tuple[Path, GraphContract]) -> None:
    """As many as are wanted, in windows that the model takes."""
    windows = calibration.windows(tiny[0], Calibration(tokens=80), tiny[1])
    assert [len(window) for window in windows] == [32, 32, 16]
    assert 0 <= min(map(min, windows)) < max(map(max, windows)) < 512


def test_the_end_of_the_text_is_read(speaking: Path, tiny: tuple[Path, GraphContract]) -> None:
    """Each window begins with the start token; what is measured is the beginning of the text."""
    windows = calibration.windows(speaking, Calibration(text="", tokens=40), tiny[1])
    assert windows == [[0, *range(60, 91)], [0, *range(91, 100)]]


def test_a_text_without_tokens(speaking: Path, tiny: tuple[Path, GraphContract]) -> None:
    """Such as a lone tab: refused under the key that it came from."""
    (speaking / layout.CALIBRATION).write_text("\t")
    with pytest.raises(UserError, match="no token") as error:
        calibration.windows(speaking, Calibration(text="", tokens=40), tiny[1])
    assert error.value.problems[0].where == "quantize.calibration.text"


def test_extents_are_those_of_what_is_written(tiny: tuple[Path, GraphContract]) -> None:
    """Of keys and values over all windows, which are spread over the positions of the cache: rotated keys differ from
    those at the beginning, values and first tokens do not."""
    point, contract = tiny
    windows = [[1, 2, 3, 4, 5, 6, 7, 8], list(range(9, 29))]
    writes = caches.writes(onnx_file.load(point / layout.SIMPLIFIED), [cache.name for cache in contract.caches])
    updates = {name: str(node.inputs[1].name) for name, node in writes.items() if node.inputs[1] is not None}
    found = calibration.extents(point / layout.SIMPLIFIED, contract, updates, windows)
    reference = Reference(loading.load(section(Model, point), point / layout.CHECKPOINT))
    answers = [reference.answer([], window, [0]).caches for window in windows]
    for i, cache in enumerate(contract.caches):
        want = np.abs(np.concatenate([caches[i] for caches in answers], 1)).max(1)
        extent = found[cache.name]
        assert [len(sample) for sample in extent.sample] == [1, 2]
        np.testing.assert_allclose(extent.first, [caches[i][:, 0] for caches in answers], atol=1e-5)
        assert np.allclose(extent.largest, want, atol=1e-5) == cache.name.endswith("value")
        if "key" in cache.name:  # a pair's length stays
            own, other = (
                np.square(numbers).reshape(-1, 2, numbers.shape[-1] // 2).sum(1)
                for numbers in (extent.sample[1][1], answers[1][i][:, 16])
            )
            np.testing.assert_allclose(own, other, rtol=1e-3)
