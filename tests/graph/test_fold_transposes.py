"""Weights are stored as MatMul wants them; what something else reads as well stays."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from pipeline.graph.fold_transposes import fold_weight_transposes

W = np.arange(12, dtype=np.float32).reshape(4, 3)


def model(*, tied: bool) -> ir.Model:
    """x [2, 3] @ w.T, w [4, 3]; tied: w is an output as well."""
    x = ir.Value(name="x", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.val("w", const_value=ir.tensor(W, name="w"))
    transpose = ir.node("Transpose", [w], {"perm": [1, 0]})
    product = ir.node("MatMul", [x, transpose.outputs[0]])
    index = ir.val("i", const_value=ir.tensor(np.array([1]), name="i"))
    nodes = [transpose, product, *([ir.node("Gather", [w, index], {"axis": 0})] if tied else [])]
    for node in nodes:
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    outputs = [node.outputs[0] for node in nodes[1:]]
    constants = [w, index] if tied else [w]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=constants, opset_imports={"": 24}, name="folded")
    return ir.Model(graph, ir_version=11)


@pytest.mark.parametrize("tied", [False, True])
def test_a_transpose_of_a_weight_is_folded(tied: bool) -> None:
    """Under the weight's own name, and only where nothing else reads the weight; the result stays the same."""
    folded = model(tied=tied)
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    want = ReferenceEvaluator(ir.to_proto(folded)).run(None, {"x": x})
    fold_weight_transposes(folded)
    assert [node.op_type for node in folded.graph] == (["Transpose", "MatMul", "Gather"] if tied else ["MatMul"])
    stored = folded.graph.initializers["w"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), W if tied else W.T)
    for one, other in zip(want, ReferenceEvaluator(ir.to_proto(folded)).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_transpose_of_activations_stays() -> None:
    """It is no weight."""
    x = ir.Value(name="x", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Transpose", [x], {"perm": [1, 0]})
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 24}, name="plain")
    fold_weight_transposes(ir.Model(graph, ir_version=11))
    assert [n.op_type for n in graph] == ["Transpose"]
