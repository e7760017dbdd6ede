"""find: which weights are quantized is decided by what reads them."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from pipeline.model.operators import HALVES, Activation
from pipeline.quantization.find import find
from tests.support.experts import EXPERTS, HIDDEN, Mixture, graph_of

K = 8  # of all weights here, which are [K, K]: 256 bytes
FLOAT, IDS = ir.TensorType(ir.DataType.FLOAT), ir.TensorType(ir.DataType.INT64)


class Example:
    """A graph of input_ids, positions and x, with weights that are made when they are first named."""

    def __init__(self) -> None:
        shapes = {"input_ids": ["batch", "sequence"], "position_ids": ["batch", "sequence"], "x": ["rows", K]}
        kinds = {"input_ids": IDS, "position_ids": IDS, "x": FLOAT}
        self.values = {name: ir.Value(name=name, type=kinds[name], shape=ir.Shape(shapes[name])) for name in shapes}
        self.graph = ir.Graph(list(self.values.values()), [], nodes=[], opset_imports={"": 24}, name="example")

    def node(self, op: str, out: str, *inputs: str, **attributes: Any) -> None:
        """Append a node; an input that is not known yet becomes a weight."""
        for name in inputs:
            if name not in self.values:
                self.weight(name, np.ones((K, K), np.float32))
        node = ir.node(op, [self.values[name] for name in inputs], attributes)
        self.graph.append(node)
        self.values[out] = node.outputs[0]

    def weight(self, name: str, array: np.ndarray) -> None:
        """A weight with these numbers."""
        self.values[name] = ir.val(name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(self.values[name])

    def found(self, *outputs: str, least: int = 0) -> list[tuple[str, str]]:
        """What `find` finds: names, and how each is used."""
        self.graph.outputs.extend(self.values[name] for name in outputs)
        return [
            (
                str(w.value.name),
                f"{'table' if w.is_table else 'head' if w.is_head else 'linear'}{' by rows' * w.by_rows}",
            )
            for w in find(self.graph, least)
        ]


def test_a_linear_layer_and_the_head() -> None:
    """The last product of the graph is the LM head; those before it are linear layers."""
    graph = Example()
    graph.node("MatMul", "h", "x", "w")
    graph.node("MatMul", "logits", "h", "head")
    assert graph.found("logits") == [("w", "linear"), ("head", "head")]


@pytest.mark.parametrize(
    ("attributes", "how"),
    [
        ({}, "linear"),
        ({"transB": 1}, "linear by rows"),
        ({"alpha": 2.0}, None),
        ({"beta": 0.5}, None),
        ({"transA": 1}, None),
    ],
)
def test_gemm(attributes: dict[str, Any], how: str | None) -> None:
    """Gemm is a linear layer as long as it does nothing else."""
    graph = Example()
    graph.node("Gemm", "h", "x", "w", **attributes)
    graph.node("MatMul", "logits", "h", "head")
    assert graph.found("logits") == ([("w", how)] if how else []) + [("head", "head")]


def test_an_embedding_and_its_tied_head() -> None:
    """Gathered by token and multiplied as a whole: one table. Ids stay ids through a Reshape."""
    graph = Example()
    graph.weight("shape", np.array([-1]))
    graph.node("Reshape", "ids", "input_ids", "shape")
    graph.node("Gather", "h", "table", "ids", axis=0)
    graph.node("Transpose", "turned", "table", perm=[1, 0])
    graph.node("MatMul", "logits", "h", "turned")
    assert graph.found("logits") == [("table", "table by rows")]


def test_other_tables() -> None:
    """Rows that positions choose, rows of another axis, and a transposed weight that is not a head's, stay."""
    graph = Example()
    graph.node("Gather", "p", "positions", "position_ids", axis=0)
    graph.node("Gather", "q", "columns", "input_ids", axis=1)
    graph.node("Transpose", "turned", "alone", perm=[1, 0])
    graph.node("MatMul", "logits", "x", "turned")
    assert graph.found("p", "q", "logits") == []


def test_weights_that_something_else_reads() -> None:
    """A weight that is added, that is an output, or that two layers read in different layouts stays as it is."""
    graph = Example()
    graph.node("MatMul", "a", "x", "added")
    graph.node("Add", "b", "a", "added")
    graph.node("MatMul", "c", "b", "both")
    graph.node("Gemm", "d", "c", "both", transB=1)
    graph.node("MatMul", "e", "d", "given")
    graph.node("MatMul", "logits", "e", "head")
    assert graph.found("logits", "given") == [("head", "head")]


def test_a_weight_of_two_layers_is_found_once() -> None:
    """With both as its readers."""
    graph = Example()
    graph.node("MatMul", "a", "x", "shared")
    graph.node("MatMul", "b", "a", "shared")
    graph.node("MatMul", "logits", "b", "head")
    assert graph.found("logits") == [("shared", "linear"), ("head", "head")]
    assert len(find(graph.graph, 0)[0].readers) == 2


def test_size_rank_and_type() -> None:
    """Weights below the least size, those of other ranks and integers stay."""
    graph = Example()
    graph.weight("small", np.ones((K, 4), np.float32))
    graph.weight("vector", np.ones(K, np.float32))
    graph.weight("integers", np.ones((K, K), np.int32))
    graph.node("MatMul", "a", "x", "small")
    graph.node("MatMul", "b", "x", "vector")
    graph.node("MatMul", "c", "x", "integers")
    graph.node("MatMul", "d", "x", "w")
    graph.node("MatMul", "logits", "d", "head")
    assert graph.found("logits", "a", "b", "c", least=K * K * 4) == [("w", "linear"), ("head", "head")]
    assert [str(w.value.name) for w in find(graph.graph, K * K * 4 + 1)] == []


def test_rows_and_width() -> None:
    """Rows are output channels whatever the layout: [K, N] is turned, [N, K] is not."""
    graph = Example()
    numbers = np.arange(K * 2 * K, dtype=np.float32)
    graph.weight("columns", numbers.reshape(K, 2 * K))
    graph.weight("rows", numbers.reshape(2 * K, K))
    graph.node("MatMul", "a", "x", "columns")
    graph.node("Gemm", "b", "x", "rows", transB=1)
    graph.graph.outputs.extend([graph.values["a"], graph.values["b"]])
    columns, rows = find(graph.graph, 0)
    assert (columns.width, rows.width) == (K, K)
    np.testing.assert_array_equal(columns.rows(), numbers.reshape(K, 2 * K).T)
    np.testing.assert_array_equal(rows.rows(), numbers.reshape(2 * K, K))


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_stacks_and_their_router_stays(transposed: bool) -> None:
    """Rows of all experts; what chooses them is left exact, and so are biases."""
    mixture = Mixture(Activation(HALVES, "silu"), transposed=transposed, bias=True)
    weights = find(graph_of(mixture, router=torch.randn(HIDDEN, EXPERTS)).graph, 0)
    assert sorted((w.value.name, w.is_stack, w.is_table, w.is_head, w.by_rows) for w in weights) == [
        ("down", True, False, False, not transposed),
        ("up", True, False, False, not transposed),
    ]
    for weight in weights:
        parameter = mixture.get_parameter(str(weight.value.name)).detach()
        rows = parameter.transpose(1, 2) if transposed else parameter
        np.testing.assert_array_equal(weight.rows(), rows.reshape(-1, weight.width).numpy())
