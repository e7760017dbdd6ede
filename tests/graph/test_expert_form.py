"""A mixture is read back from the operators that were written, and no other Loop is taken for one."""

import onnx
import onnx_ir as ir
import pytest

from pipeline.graph.expert_form import ExpertForm
from pipeline.model.operators import HALVES, Activation
from tests.support.experts import Mixture, graph_of


@pytest.mark.parametrize("transposed", [False, True])
def test_reads_what_was_written(transposed: bool) -> None:
    """Inputs, weights, biases and the result."""
    graph = graph_of(Mixture(Activation(HALVES, "silu"), transposed=transposed, bias=True)).graph
    (loop,) = (node for node in graph if node.op_type == "Loop")
    form = ExpertForm.of(loop)
    assert form is not None
    assert [form.hidden, form.indices, form.weights] == list(graph.inputs)
    assert [form.up.weight.name, form.down.weight.name] == ["up", "down"]
    assert [form.up.bias and form.up.bias.name, form.down.bias and form.down.bias.name] == ["up_bias", "down_bias"]
    assert form.up.transposed == form.down.transposed == transposed
    assert form.out is graph.outputs[0]
    assert (form.product.producer().op_type, form.activated.producer().op_type) == ("Gemm", "Mul")  # type: ignore[union-attr]


def test_another_loop_is_none() -> None:
    """One that doubles a number."""
    text = """<ir_version: 11, opset_import: ["": 24]>
    twice (int64 trips, bool go, float[2] x) => (float[2] y) {
      y = Loop (trips, go, x) <body = body (int64 i, bool c, float[2] a) => (bool d, float[2] b) {
        d = Identity(c)
        b = Add(a, a)
      }>
    }"""
    (loop,) = ir.from_proto(onnx.parser.parse_model(text)).graph
    assert ExpertForm.of(loop) is None
