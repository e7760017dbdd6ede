"""lint: sound networks pass, and every planted fault is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from pipeline.backends.tensorrt.lint import lint
from pipeline.backends.tensorrt.network import Parsed, parse, restore_attention_lengths
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.schema import Weights
from tests.support.tensorrt import contract_of, edited, node, quantized, rtx

Point = tuple[Path, GraphContract]
FIRST, SECOND = (f"model.layers.{i}.self_attn" for i in (0, 1))


def findings(folder: Path, *, restore: bool = True) -> list[str]:
    """What the lint finds in a parsed folder."""
    return lint(parse(rtx(), folder, restore=restore), contract_of(folder))


def without_softcap(model: onnx.ModelProto) -> None:
    """Gemma 2's attention as operators, some with windows as masks and some causal with lengths."""
    for found in model.graph.node:
        for attribute in found.attribute:
            if attribute.name == "softcap":
                attribute.f = 0.0


@pytest.fixture
def masked(window: Point, tmp_path: Path) -> Path:
    """A model with masks and lengths side by side."""
    return edited(window[0] / layout.SIMPLIFIED, tmp_path / "masked", without_softcap)


def test_sound_networks_have_no_findings(tiny: Point, half: Point, window: Point, masked: Path, tmp_path: Path) -> None:
    """fp32, fp16, a softcap in products, masks beside lengths, weights of 8 and 4 bits in whole numbers and floats."""
    folders = [masked, *(point[0] / layout.SIMPLIFIED for point in (tiny, half, window))]
    folders += [
        quantized(tiny[0], tmp_path / kind.value, kind, symmetric=kind is Weights.int8)
        for kind in (Weights.int8, Weights.int4)
    ]
    folders += [quantized(half[0], tmp_path / kind.value, kind) for kind in (Weights.fp8, Weights.nvfp4)]
    assert {str(folder): findings(folder) for folder in folders} == {str(folder): [] for folder in folders}


def test_restored_lengths_make_attention_right(half: Point) -> None:
    """As parsed, every attention is upper-left and without lengths; each is named. That alone is repaired."""
    parsed = parse(rtx(), half[0] / layout.SIMPLIFIED, restore=False)
    assert lint(parsed, half[1]) == [
        f"{name}.Attention {what}"
        for name in (FIRST, SECOND)
        for what in ("is causal to UPPER_LEFT, not to LOWER_RIGHT", "has no lengths of keys and values")
    ]
    restore_attention_lengths(parsed)
    assert lint(parsed, half[1]) == []


def test_fp32_attention_is_decomposed(tiny: Point) -> None:
    """It has no kernel; without leave to decompose it the builder fails, so the lint says so before."""
    folder = tiny[0] / layout.SIMPLIFIED
    parsed = parse(rtx(), folder)
    assert all(attention.decomposable for attention in parsed.attentions.values())
    parsed.attentions[f"{SECOND}.Attention"].decomposable = False
    (finding,) = lint(parsed, tiny[1])
    assert finding == f"{SECOND}.Attention has no kernel for float32 and head size 16 and may not be decomposed"


def upper_left(parsed: Parsed) -> None:
    """The mask of a prompt, at every step."""
    parsed.attentions[f"{SECOND}.Attention"].causal_kind = parsed.api.trt.CausalMaskKind.UPPER_LEFT


def other_lengths(parsed: Parsed) -> None:
    """Lengths that are another integer tensor."""
    parsed.attentions[f"{SECOND}.Attention"].key_value_lengths = parsed.network.add_cast(
        parsed.network.get_input(3), parsed.api.trt.int32
    ).get_output(0)


def extra_input(parsed: Parsed) -> None:
    """An input that nothing reads."""
    parsed.network.add_input("extra", parsed.api.trt.int64, (-1,))


def lost_output(parsed: Parsed) -> None:
    """A cache that is written and not given back."""
    parsed.network.unmark_output(parsed.network.get_output(1))


def frozen_input(parsed: Parsed) -> None:
    """A batch of two."""
    parsed.network.get_input(4).shape = (2, 2, 64, 16)


PLANTED = [
    (upper_left, [f"{SECOND}.Attention is causal to UPPER_LEFT, not to LOWER_RIGHT"]),
    (other_lengths, [f"{SECOND}.Attention has the lengths cache_position, in the graph they are add"]),
    (extra_input, ["input extra is not in the contract", "input extra is not used"]),
    (lost_output, ["output present.0.key is missing", f"{FIRST}.TensorScatter: present.0.key is not an output"]),
    (frozen_input, ["input past_key_values.0.key is [2, 2, 64, 16], declared is [batch, 2, 64, 16]"]),
]


@pytest.mark.parametrize(("plant", "says"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_in_the_network_is_found(half: Point, plant: Callable[[Parsed], None], says: list[str]) -> None:
    """Faults that a parser or the repair could make: each is found, and the layer is named."""
    parsed = parse(rtx(), half[0] / layout.SIMPLIFIED)
    plant(parsed)
    found = lint(parsed, half[1])
    assert all(any(text in finding for finding in found) for text in says), found


def test_a_dropped_mask_is_found(masked: Path, tmp_path: Path) -> None:
    """A network whose layer is causal where the graph has a sliding window."""
    window, causal = (f"model.layers.{i}.self_attn.Attention" for i in (0, 1))

    def drop(model: onnx.ModelProto) -> None:
        wrong, right = node(model, window), node(model, causal)
        del wrong.input[3:]
        wrong.input.extend(right.input[3:])
        wrong.attribute.append(helper.make_attribute("is_causal", 1))

    sound = parse(rtx(), masked)
    parsed = parse(rtx(), edited(masked, tmp_path / "dropped", drop))
    parsed.proto = sound.proto
    assert [finding.partition(", in the graph")[0] for finding in lint(parsed, contract_of(masked))] == [
        f"{window} is causal",
        f"{window} has no mask",
    ]


def swapped_caches(model: onnx.ModelProto) -> None:
    """Keys are written into the buffer of the values, and the other way round."""
    key, value = (node(model, f"{FIRST}.TensorScatter{suffix}") for suffix in ("", "_1"))
    key.input[0], value.input[0] = value.input[0], key.input[0]


def cache_from_a_sum(model: onnx.ModelProto) -> None:
    """The cache starts at another number than cache_position."""
    node(model, f"{FIRST}.TensorScatter").input[2] = "add"


def other_positions(model: onnx.ModelProto) -> None:
    """position_ids is declared, and not read."""
    for reader in model.graph.node:
        for i, name in enumerate(reader.input):
            if name == "position_ids":
                reader.input[i] = "input_ids"


def frozen_batch(model: onnx.ModelProto) -> None:
    """All inputs are declared with a batch of two."""
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2


def wide_product(model: onnx.ModelProto) -> None:
    """One projection in fp32 between two casts."""
    product = node(model, f"{FIRST}.o_proj.MatMul")
    position = list(model.graph.node).index(product)
    source, weight, out = product.input[0], product.input[1], product.output[0]
    casts = [helper.make_node("Cast", [name], [f"{name}.wide"], to=1, name=f"{name}.up") for name in (source, weight)]
    back = helper.make_node("Cast", [f"{out}.wide"], [out], to=10, name="down")
    product.input[0], product.input[1], product.output[0] = f"{source}.wide", f"{weight}.wide", f"{out}.wide"
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:position], *casts, product, back, *nodes[position + 1 :]])


def router(model: onnx.ModelProto) -> None:
    """A projection whose result is used in fp32, as a router's is."""
    wide_product(model)
    product = node(model, f"{FIRST}.o_proj.MatMul")
    position, out = list(model.graph.node).index(product), product.output[0]
    sigmoid = helper.make_node("Sigmoid", [out], [f"{out}.score"], name="score")
    model.graph.node.insert(position + 1, sigmoid)
    node(model, "down").input[0] = f"{out}.score"


IN_THE_GRAPH = [
    (swapped_caches, f"{FIRST}.TensorScatter writes present.0.key into past_key_values.0.value, not into the input"),
    (cache_from_a_sum, f"{FIRST}.TensorScatter writes from add, not from cache_position"),
    (other_positions, "input position_ids is not used"),
    (frozen_batch, "input input_ids is [2, sequence], declared is [batch, sequence]"),
    (wide_product, f"{FIRST}.o_proj.MatMul computes in float32, declared is float16"),
]


@pytest.mark.parametrize(("edit", "says"), IN_THE_GRAPH, ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_in_the_graph_is_found(
    half: Point, tmp_path: Path, edit: Callable[[onnx.ModelProto], None], says: str
) -> None:
    """The network is compared with the contract, so that a fault of the graph itself does not pass as the parser's."""
    found = findings(edited(half[0] / layout.SIMPLIFIED, tmp_path / "point", edit))
    assert any(finding.startswith(says) for finding in found), found


def test_a_router_in_fp32_is_no_fault(half: Point, tmp_path: Path) -> None:
    """The model means it so."""
    assert findings(edited(half[0] / layout.SIMPLIFIED, tmp_path, router)) == []


def changed(proto: onnx.ModelProto, what: str) -> None:
    """Let the graph say something else than the network that was parsed from it."""
    attention = node(proto, f"{SECOND}.Attention")
    if what == "scale":
        next(a for a in attention.attribute if a.name == "scale").f *= 2
    elif what == "values":
        attention.input[2] = "present.0.value"
    elif what == "weight":
        next(t for t in proto.graph.initializer if t.name == "lm_head.weight").dims[1] += 8
    elif what == "type":
        next(t for t in proto.graph.initializer if t.name == "lm_head.weight").data_type = onnx.TensorProto.FLOAT
    else:
        attention.name = "another"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("scale", f"{SECOND}.Attention scales its scores by 1, in the graph by 2"),
        ("values", f"{SECOND}.Attention attends over add_419, present.1.key, present.1.value, in the graph over"),
        ("weight", "lm_head.weight holds 32768 numbers, in the graph 33280"),
        ("type", "lm_head.weight is float16, in the graph float32"),
        ("name", "another is not an attention of the network"),
    ],
)
def test_the_network_is_held_against_the_graph(half: Point, what: str, says: str) -> None:
    """Scales, operands and weights are the graph's."""
    parsed: Any = parse(rtx(), half[0] / layout.SIMPLIFIED)
    changed(parsed.proto, what)
    found = lint(parsed, half[1])
    assert any(finding.startswith(says.partition(" add_")[0]) for finding in found), found
