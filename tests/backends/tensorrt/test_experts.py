"""Blocks of experts at once: the numbers of the Loop, without it."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from pipeline.backends.tensorrt.experts import unroll_experts
from pipeline.core.schema import Embedding, Quantize, Rounding
from pipeline.core.tables.formats import Weights
from pipeline.graph.editor import Editor
from pipeline.model.operators import HALVES, INTERLEAVED, UNGATED, Activation
from pipeline.quantize import Quantizer, quantize
from tests.support.experts import Mixture, choice, graph_of

FORMS = [
    (Activation(HALVES, "silu"), False, False),
    (Activation(INTERLEAVED, "silu", 1.702, 1.5, False, 1.0), True, True),
    (Activation(UNGATED, "relu2"), False, True),
]


@pytest.mark.parametrize("weights", [Weights.none, Weights.int8, Weights.int4])
@pytest.mark.parametrize(("activation", "transposed", "bias"), FORMS)
def test_computes_the_same(activation: Activation, transposed: bool, bias: bool, weights: Weights) -> None:
    """One token and many, two mixtures in a row, with float or quantized weights."""
    model = graph_of(Mixture(activation, transposed=transposed, bias=bias), 2)
    if weights is not Weights.none:
        options = Quantize(weights, 16, True, Embedding.none, False, Rounding.nearest)
        quantize(model, Quantizer(options, lambda: None), least=0)
    before = ir.to_proto(model).SerializeToString()
    editor = Editor(model)
    unroll_experts(editor)
    editor.finish()
    assert "Loop" not in {node.op_type for node in model.graph}
    sessions = [
        ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        for data in (before, ir.to_proto(model).SerializeToString())
    ]
    for tokens in (1, 7, 200):
        hidden, indices, factors = choice(tokens, seed=tokens)
        feeds = {"hidden": hidden.numpy() * 0.1, "indices": indices.numpy(), "weights": factors.numpy()}
        want, got = (session.run(None, feeds)[0] for session in sessions)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_another_loop_stays() -> None:
    """Only a mixture's blocks are known to be independent."""
    model = graph_of(Mixture(Activation(HALVES, "silu")))
    (loop,) = (node for node in model.graph if node.op_type == "Loop")
    body = loop.attributes["body"].as_graph()
    body.append(extra := ir.node("Gemm", [body[0].outputs[0], body[0].outputs[0]]))
    assert extra.outputs[0].uses() == ()
    unroll_experts(Editor(model))
    assert "Loop" in {node.op_type for node in model.graph}
