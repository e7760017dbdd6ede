"""network: what the parser makes of a graph, what it drops, and the nodes that it refuses."""

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from pipeline.backends.tensorrt.network import has_kernel, inputs, layers, outputs, parse
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.graph.attention import LENGTHS
from tests.support.tensorrt import edited, node, rtx

Point = tuple[Path, GraphContract]


def test_attentions_get_their_lengths_back(half: Point) -> None:
    """The parser drops them and aligns causal masks to the upper left; all layers share one cast of the lengths."""
    api = rtx()
    kinds = api.trt.CausalMaskKind
    model = half[0] / layout.SIMPLIFIED
    dropped, restored = (parse(api, model, restore=restore).attentions for restore in (False, True))
    assert dropped.keys() == restored.keys() == {f"model.layers.{i}.self_attn.Attention" for i in (0, 1)}
    assert {attention.causal_kind for attention in dropped.values()} == {kinds.UPPER_LEFT}
    assert {attention.key_value_lengths for attention in dropped.values()} == {None}
    assert {attention.causal_kind for attention in restored.values()} == {kinds.LOWER_RIGHT}
    assert len({attention.key_value_lengths.name for attention in restored.values()}) == 1


def test_queries_and_keys_lose_the_parsers_factors(half: Point) -> None:
    """It multiplies both by the square root of the scale; the keys are the whole cache."""
    parsed = parse(rtx(), half[0] / layout.SIMPLIFIED)
    for found in parsed.proto.graph.node:
        if found.op_type == "Attention":
            attention = parsed.attentions[found.name]
            assert [attention.get_input(i).name for i in range(3)] == list(found.input[:3])
            assert found.input[LENGTHS]


def test_every_layer_has_its_own_class(half: Point) -> None:
    """Python is handed ILayers, which know nothing of an attention, a scale or a mode."""
    api = rtx()
    parsed = parse(api, half[0] / layout.SIMPLIFIED)
    found = list(layers(api, parsed.network))
    assert len(found) == parsed.network.num_layers
    assert {type(layer).__name__ for layer in found} > {"IKVCacheUpdateLayer", "IElementWiseLayer", "IConstantLayer"}
    assert "ILayer" not in {type(layer).__name__ for layer in found}
    made = {tensor.name for layer in found for tensor in outputs(layer)}
    given = {parsed.network.get_input(i).name for i in range(parsed.network.num_inputs)}
    assert {tensor.name for layer in found for tensor in inputs(api, layer)} <= made | given


@pytest.mark.parametrize(
    ("dtype", "query", "value", "has"),
    [("float16", 64, 64, True), ("bfloat16", 256, 128, True), ("float16", 128, 264, False), ("float32", 64, 64, False)],
)
def test_what_a_fused_kernel_computes(dtype: str, query: int, value: int, has: bool) -> None:
    """16 bits, and the larger of the two head sizes at most 256."""
    api = rtx()
    sizes = {0: query, 2: value}
    tensors = {i: SimpleNamespace(dtype=getattr(api.trt, dtype), shape=(-1, 2, -1, size)) for i, size in sizes.items()}
    assert has_kernel(api, SimpleNamespace(get_input=tensors.__getitem__)) == has


def test_operators_that_tensorrt_lacks(half: Point, tmp_path: Path) -> None:
    """One problem for each node, with its module and what to do."""

    def edit(model: onnx.ModelProto) -> None:
        for i in (0, 1):
            node(model, f"model.layers.{i}.mlp.act_fn.Sigmoid").op_type = "Bernoulli"

    folder = edited(half[0] / layout.SIMPLIFIED, tmp_path / "point", edit)
    with pytest.raises(UserError) as error:
        parse(rtx(), folder)
    assert [(problem.where, problem.fix) for problem in error.value.problems] == [
        (f"module model.layers.{i}.mlp.act_fn", "engine=onnxruntime_cpu runs every model that verifies") for i in (0, 1)
    ]
    assert "model.layers.0.mlp.act_fn.Sigmoid (Bernoulli): TensorRT has no Bernoulli" in str(error.value)
