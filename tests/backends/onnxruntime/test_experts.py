"""Mixtures in ONNX Runtime's own operators: the same results, and no weight stored twice."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

from pipeline.backends.onnxruntime.lower import lower
from pipeline.core.schema import Embedding, Quantize, Rounding
from pipeline.core.tables.formats import Weights
from pipeline.model.operators import HALVES, INTERLEAVED, UNGATED, Activation
from pipeline.quantize import Quantizer, quantize
from tests.support.experts import EXPERTS, HIDDEN, INNER, Mixture, choice, graph_of

GPT_OSS = Activation(INTERLEAVED, "silu", 1.702, 1.5, False, 1.0)
SILU = Activation(HALVES, "silu")


def lowered(model: ir.Model, *, int8_activations: bool = False) -> ir.Model:
    """The graph, lowered in place."""
    lower(model, int8_activations=int8_activations)
    return model


def answers(model: ir.Model, *given: torch.Tensor) -> np.ndarray:
    """What ONNX Runtime computes."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = (value.name for value in session.get_inputs())
    (out,) = session.run(None, dict(zip(names, (value.numpy() for value in given), strict=True)))
    return np.asarray(out)


@pytest.mark.parametrize(
    ("activation", "transposed", "bias"),
    [(SILU, False, False), (GPT_OSS, True, True), (Activation(HALVES, "silu", limit=1.5), True, True)],
)
def test_moe_computes_the_same(activation: Activation, transposed: bool, bias: bool) -> None:
    """One token and many, weights of the router that do not add up to 1; the data is that of the weights."""
    mixture = Mixture(activation, transposed=transposed, bias=bias)
    model = lowered(graph_of(mixture))
    assert [node.op_type for node in model.graph if node.op_type in ("MoE", "Loop")] == ["MoE"]
    sizes = [v.const_value.size for v in model.graph.initializers.values() if v.const_value.size > 1000]  # type: ignore[union-attr]
    assert sorted(sizes) == [EXPERTS * HIDDEN * INNER, EXPERTS * HIDDEN * 2 * INNER]
    for tokens in (1, 7, 100):
        given = choice(tokens, seed=tokens)
        with torch.no_grad():
            np.testing.assert_allclose(answers(model, *given), mixture(*given).numpy(), rtol=1e-4, atol=1e-4)


def test_an_expert_chosen_twice_or_with_weight_0() -> None:
    """Indices of experts without weights are clamped to the last real one, with weight 0."""
    mixture = Mixture(SILU)
    hidden, _, _ = choice(3)
    given = (hidden, torch.tensor([[3, 3], [5, 5], [5, 1]]), torch.tensor([[0.25, 0.5], [0.0, 0.0], [0.0, 2.0]]))
    with torch.no_grad():
        np.testing.assert_allclose(
            answers(lowered(graph_of(mixture)), *given), mixture(*given).numpy(), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "activation",
    [Activation(HALVES, "gelu"), Activation(UNGATED, "silu"), Activation(HALVES, "silu", limit=2.0, limit_after=True)],
)
def test_another_activation_keeps_the_loop(activation: Activation) -> None:
    """It has no kernel."""
    model = graph_of(Mixture(activation))
    before = [node.op_type for node in model.graph]
    assert sorted(node.op_type for node in lowered(model).graph) == sorted(before)


@pytest.mark.parametrize(
    ("weights", "block"), [(Weights.int4, 32), (Weights.int4, 16), (Weights.int8, 0), (Weights.int8, 16)]
)
@pytest.mark.parametrize(("activation", "transposed", "bias"), [(SILU, False, False), (GPT_OSS, True, True)])
@pytest.mark.parametrize("int8_activations", [False, True])
def test_qmoe_computes_the_same(
    weights: Weights, block: int, activation: Activation, transposed: bool, bias: bool, int8_activations: bool
) -> None:
    """As the portable graph with the same numbers: exactly, or within what rounding the activations to 8 bits costs."""
    model = graph_of(Mixture(activation, transposed=transposed, bias=bias))
    options = Quantize(weights, block, True, Embedding.none, False, Rounding.nearest)
    quantize(model, Quantizer(options, lambda: None), least=0)
    given = choice(9)
    want = answers(model, *given)
    lowered(model, int8_activations=int8_activations)
    kernel = "Loop" if (weights, bool(block), int8_activations) == (Weights.int8, True, False) else "QMoE"
    assert [node.op_type for node in model.graph if node.op_type in ("QMoE", "Loop")] == [kernel]
    error = np.abs(answers(model, *given) - want).max() / np.abs(want).max()
    assert error < (0.03 if int8_activations and block else 1e-5)
