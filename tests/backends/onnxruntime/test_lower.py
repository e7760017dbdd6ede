"""The lowered graph: ONNX Runtime's own operators, the same numbers, and the weights untouched."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from pipeline.backends.onnxruntime.lower import lower
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.graph import onnx_file
from tests.support.architectures import random_model
from tests.support.lowered import WIDE, assert_no_answer_changed, operators
from tests.support.points import build_once


def test_a_layer_becomes_ten_nodes(tiny: tuple[Path, GraphContract]) -> None:
    """Nothing is left of rotary embeddings, writes and transposes; the portable graph is as it was."""
    folder, contract = tiny
    layers = len(contract.caches) // 2
    lowered, portable = (operators(folder / artifact) for artifact in (layout.ENGINE, layout.SIMPLIFIED))
    assert lowered["GroupQueryAttention"] == lowered["QuickGelu"] == layers
    assert lowered["SkipSimplifiedLayerNormalization"] == 2 * layers
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "Transpose", "Reshape", "Sigmoid"} & set(lowered)
    assert sum(lowered.values()) <= 12 * layers + 20
    assert portable["Attention"] == layers


def test_lowering_changes_no_answer(tiny: tuple[Path, GraphContract]) -> None:
    """An engine without the lowering gives the same."""
    assert_no_answer_changed(tiny[0], layout.SIMPLIFIED, tiny[1])


def test_lowering_can_be_switched_off(tmp_path: Path) -> None:
    """engine.lower=false leaves the portable graph as it is."""
    build_once(tmp_path, ["engine.lower=false"])
    assert operators(tmp_path / layout.ENGINE) == operators(tmp_path / layout.SIMPLIFIED)


@pytest.mark.parametrize(("cuda", "parts"), [(False, 3), (True, 1)])
def test_activations_that_are_not_rounded(cuda: bool, parts: int, tmp_path: Path) -> None:
    """engine.int8_activations=false: on the CPU the input of every product of 8 bits is split, attention's output
    included; on CUDA, whose kernels round nothing, none is."""
    options = ["precision=int8", "quantize.rounding=nearest", "engine.int8_activations=false"]
    contract = build_once(tmp_path, options, model=random_model("llama", **WIDE))
    assert_no_answer_changed(tmp_path, layout.QUANTIZED, contract, atol=5e-5)  # sums in another order
    model = onnx_file.load(tmp_path / layout.QUANTIZED)
    lower(model, int8_activations=False, cuda=cuda)
    products = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert {node.attributes["accuracy_level"].value for node in products} == {4 if parts > 1 else 0}
    rounded = [node for node in model.graph if node.op_type == "Round"]
    assert len(rounded) == (parts - 1) * len(products) != len(products)


@pytest.mark.parametrize("tied", [{"tie_word_embeddings": True}, {}], ids=["tied", "untied"])
def test_the_head_alone_has_two_parts(tied: dict[str, bool], tmp_path: Path) -> None:
    """Its own rounding is a third of what all rounded activations cost; the other products would double the nodes."""
    options = ["precision=int8", "quantize.rounding=nearest"]
    build_once(tmp_path, options, model=random_model("llama", **WIDE, **tied))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    products = {n.name: n for n in nodes if n.op_type == "MatMulNBits"}
    doubled = [n.input[0] for n in nodes if n.op_type == "Split" and n.name.startswith("lm_head")]
    assert doubled == [products["lm_head.MatMulNBits"].output[0]]
    assert [n.op_type for n in nodes].count("Round") == 1


def test_lowering_does_not_touch_weights(tiny: tuple[Path, GraphContract]) -> None:
    """Every weight that is stored in the file is still the same part of the same file."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    before = {v.name: v.const_value for v in model.graph.initializers.values()}
    lower(model, int8_activations=True)
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            assert value.const_value is before[name]
