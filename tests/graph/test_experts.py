"""Experts in standard operators: the operator's results, with memory that does not grow as tokens times experts."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from pipeline.graph.experts import BLOCK
from pipeline.model.operators import FUNCTIONS, HALVES, INTERLEAVED, UNGATED, Activation
from tests.support.experts import EXPERTS, Mixture, choice, graph_of


def session(model: ir.Model) -> ort.InferenceSession:
    """The graph in ONNX Runtime, checked first."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 24)]
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("activation", "transposed", "bias"),
    [
        (Activation(HALVES, "silu"), False, False),
        (Activation(INTERLEAVED, "silu", 1.702, 1.5, False, 1.0), True, True),  # gpt-oss
        (Activation(HALVES, "gelu_tanh", limit=1.5, limit_after=True), True, False),
        *((Activation(UNGATED, function), False, True) for function in FUNCTIONS),
    ],
)
def test_graph_equals_the_operator(activation: Activation, transposed: bool, bias: bool) -> None:
    """For one token, for tokens that fill a block exactly or nearly, and when all go to two experts."""
    mixture = Mixture(activation, transposed=transposed, bias=bias)
    made = session(graph_of(mixture))
    names = [value.name for value in made.get_inputs()]
    for tokens, of in ((1, EXPERTS), (3, EXPERTS), (BLOCK, 2), (BLOCK + 1, 2), (300, EXPERTS)):
        given = choice(tokens, seed=tokens, of=of)
        (out,) = made.run(None, dict(zip(names, (value.numpy() for value in given), strict=True)))
        with torch.no_grad():
            np.testing.assert_allclose(out, mixture(*given).numpy(), rtol=1e-4, atol=1e-4)


def test_weights_stay_one_stack() -> None:
    """As the model has them: no copy, no transposed one, and nothing else of their size."""
    mixture = Mixture(Activation(HALVES, "silu"))
    graph = graph_of(mixture).graph
    large = {name: v.const_value for name, v in graph.initializers.items() if v.const_value.size > 100}  # type: ignore[union-attr]
    assert sorted(large) == ["down", "up"]
    for name, tensor in large.items():
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), getattr(mixture, name).detach().numpy())


def test_mixtures_of_one_graph_share_their_constants() -> None:
    """Two layers do not collide, and need no more constants than one."""

    mixture = Mixture(Activation(HALVES, "silu"))
    one, two = (graph_of(mixture, layers) for layers in (1, 2))
    assert len(two.graph.initializers) == len(one.graph.initializers)
    session(two)
