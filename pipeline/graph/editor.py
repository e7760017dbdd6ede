"""Edit an onnx_ir graph: new nodes and constants in the place of old ones."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

SWAP = [0, 2, 1, 3]  # [batch, sequence, heads, head_dim] <-> [batch, heads, sequence, head_dim]


def add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A constant of the graph, under the tensor's name."""
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def logit_projections(graph: ir.Graph) -> Iterator[ir.Node]:
    """The matrix products from which the logits come with no other in between."""
    waiting, seen = [graph.outputs[0]], set()
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in ("MatMul", "Gemm"):
            yield node
        else:
            waiting += [value for value in node.inputs if value is not None]


class Editor:
    """The graph of a model, and the few operations that rewriting it takes."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self.inputs = {str(value.name): value for value in model.graph.inputs}
        self.first = model.graph[0]  # what every node may read is computed before it

    def nodes(self, op: str) -> list[ir.Node]:
        """The standard nodes of one operator type, in order."""
        return [node for node in self.graph if node.op_type == op and node.domain == ""]

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """An initializer; one that is there already under this name is taken as the same."""
        if name not in self.graph.initializers:
            add_initializer(self.graph, ir.tensor(array, name=name))
        return self.graph.initializers[name]

    def insert(
        self,
        before: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        *,
        domain: str = "",
        like: Sequence[ir.Value | None] = (None,),
        **attributes: Any,
    ) -> ir.Node:
        """A new node in front of another, named after its module; `like`: per output, whose type and shape it has."""
        name = f"{str(before.name).rpartition('.')[0]}.{op}".removeprefix(".")
        node = ir.node(op, inputs, attributes=attributes, domain=domain, num_outputs=len(like), name=name)
        node.metadata_props.update(before.metadata_props)
        for output, model in zip(node.outputs, like, strict=True):
            if model is not None:
                output.shape, output.type = model.shape, model.type
        self.graph.insert_before(before, node)
        return node

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let everything that reads `old` read `new`; as an output of the graph it takes over the name too."""
        if old.is_graph_output():
            name, old.name = old.name, None
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def finish(self) -> None:
        """Remove what nothing reads any more, and give equal names numbers."""
        common.RemoveUnusedNodesPass()(self.model)
        common.TopologicalSortPass()(self.model)
        common.NameFixPass()(self.model)


def made_by(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes a value, if it is a standard one of this type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op and node.domain == "" else None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or what the operator takes it to be."""
    return node.attributes[name].value if name in node.attributes else default


def dimension(value: ir.Value | None, axis: int) -> int:
    """A dimension that the contract makes a number."""
    assert value is not None
    assert value.shape is not None
    found = value.shape[axis]
    assert isinstance(found, int), f"{value.name} has no fixed size on axis {axis}"
    return found
