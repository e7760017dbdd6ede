"""AttentionForm: what a node says, read alike from both kinds of graph."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from pipeline.graph.attention import AttentionForm, Sink

CAUSAL = ["q", "k", "v", "", "", "", "lengths"]
MASKED = ["q", "k", "v", "mask"]


def node(inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """An Attention."""
    return helper.make_node("Attention", inputs, ["y"], **attributes)


def from_ir(proto: onnx.NodeProto) -> ir.Node:
    """The same node in onnx_ir."""
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in proto.input if name]
    graph = helper.make_graph([proto], "one", values, [helper.make_empty_tensor_value_info("y")])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])).graph[0]


@pytest.mark.parametrize(
    ("inputs", "causal", "portable"),
    [
        (CAUSAL, 1, True),
        (MASKED, 0, True),
        (CAUSAL, 0, False),  # sees slots that are not written yet
        (MASKED, 1, False),  # which of the two?
        (["q", "k", "v"], 1, False),  # aligned to the first slots of the cache, not to the last used ones
        (["q", "k", "v"], 0, False),
        ([*MASKED, "", "", "lengths"], 0, False),
        ([*MASKED, "", "", "lengths"], 1, False),
    ],
)
def test_two_forms_are_portable(inputs: list[str], causal: int, portable: bool) -> None:
    """Causal with lengths, or a mask alone; in a proto and in onnx_ir."""
    proto = node(inputs, is_causal=causal)
    for form in (AttentionForm.of_proto(proto), AttentionForm.of(from_ir(proto))):
        assert form.is_portable == portable
        assert form.is_causal == bool(causal)
        assert form.other_attributes == {}
        assert form.other_inputs == {}


def test_operands_by_name_and_by_value() -> None:
    """Mask and lengths are found at their places; what is left out is None."""
    causal, masked = (AttentionForm.of_proto(node(inputs)) for inputs in (CAUSAL, MASKED))
    assert (causal.mask, causal.lengths, masked.mask, masked.lengths) == (None, "lengths", "mask", None)
    value = AttentionForm.of(from_ir(node(CAUSAL))).lengths
    assert value is not None
    assert value.name == "lengths"


def test_numbers() -> None:
    """The scale is 1 / sqrt(head_dim) unless given, and there is no softcap unless given."""
    plain, given = AttentionForm.of_proto(node(CAUSAL)), AttentionForm.of_proto(node(CAUSAL, scale=0.5, softcap=30.0))
    assert (plain.scale(64), plain.softcap) == (0.125, 0.0)
    assert (given.scale(64), given.softcap) == (0.5, 30.0)


def test_everything_else_is_told() -> None:
    """Attributes other than at their neutral value, and inputs without a place in a static cache."""
    proto = node([*MASKED, "past_key", "past_value"], left_window_size=6, right_window_size=-1, softmax_precision=1)
    form = AttentionForm.of(from_ir(proto))
    assert form.other_attributes == {"left_window_size": 6, "softmax_precision": 1}
    assert {index: value.name for index, value in form.other_inputs.items()} == {4: "past_key", 5: "past_value"}


def behind(change: str = "") -> ir.Node:
    """An Attention with a sink behind it, or with one thing else."""
    out = ["y", "", "", "scores"]
    mode, axis = (1 if change == "mode" else 2), np.array([2 if change == "axis" else 3])
    minus = ["sink", "total"] if change == "order" else ["total", "sink"]
    nodes = [
        helper.make_node("Attention", CAUSAL, out, is_causal=1, qk_matmul_output_mode=mode),
        helper.make_node("ReduceLogSumExp", ["scores", "axis"], ["total"], keepdims=1),
        helper.make_node("Sub", minus, ["above"]),
        helper.make_node("Sigmoid", ["above"], ["share"]),
        helper.make_node("Mul", ["q" if change == "factor" else "y", "share"], ["with_sink"]),
    ]
    given = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("q", "k", "v", "lengths")]
    results = ["with_sink", *(["scores"] if change == "reader" else [])]
    graph = helper.make_graph(
        nodes,
        "one",
        given,
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in results],
        [onnx.numpy_helper.from_array(axis, "axis"), onnx.numpy_helper.from_array(np.zeros((2, 1, 1)), "sink")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])).graph[0]


def test_a_sink_is_found() -> None:
    """Behind an attention that is as portable as without it."""
    node = behind()
    sink = Sink.of(node)
    assert sink is not None
    assert (sink.scores.name, sink.out.name) == ("sink", "with_sink")
    assert (AttentionForm.of(node).is_portable, AttentionForm.of(node).other_attributes) == (True, {})


@pytest.mark.parametrize("change", ["mode", "axis", "order", "factor", "reader"])
def test_what_is_no_sink(change: str) -> None:
    """Other scores, another axis, the difference the other way round, another factor, another reader of the scores."""
    node = behind(change)
    assert Sink.of(node) is None
    assert AttentionForm.of(node).other_attributes.keys() == {"qk_matmul_output_mode"}
