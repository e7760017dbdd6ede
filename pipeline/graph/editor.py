"""Edit an onnx_ir graph: insert nodes and constants, and let them replace others."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from pipeline.graph.naming import MODULE

SWAP = [0, 2, 1, 3]  # [batch, sequence, heads, head_dim] <-> [batch, heads, sequence, head_dim]


class Editor:
    """The graph of a model, and the few operations that every pass is made of."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self.inputs = {str(value.name): value for value in model.graph.inputs}
        self.first = model.graph[0]  # inserted before it, a value can be read by every node

    def nodes(self, op: str) -> list[ir.Node]:
        """The standard nodes of one operator type, in order."""
        return [node for node in self.graph if node.op_type == op and node.domain == ""]

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """The initializer `name` with these numbers, added if it is new.

        Raises ValueError when the graph has other numbers under this name.
        """
        known = self.graph.initializers.get(name)
        if known is None:
            return self.initializer(ir.tensor(array, name=name))
        assert known.const_value is not None
        same = known.const_value.numpy()
        if same.dtype != array.dtype or same.shape != array.shape or same.tobytes() != array.tobytes():
            raise ValueError(f"the graph has another constant {name}: {same.dtype} {same.shape}")
        return known

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """A new initializer under the tensor's name. Raises ValueError when the name is taken."""
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        value = ir.Value(name=tensor.name, shape=shape, type=kind, const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def insert(
        self,
        anchor: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        *,
        after: bool = False,
        module: str | None = None,
        domain: str = "",
        like: Sequence[ir.Value | None] = (None,),
        replaces: Sequence[ir.Value] = (),
        **attributes: Any,
    ) -> ir.Node:
        """Insert a new node before (or after) `anchor`, named after its module and operator.

        module: of the new node; None for the anchor's. like: for each output, a value whose shape and type it gets, or
        None. replaces: for each output, the value whose shape, type, name and readers it gets.
        """
        owner = str(anchor.name).rpartition(".")[0] if module is None else module
        name = f"{owner}.{op}".removeprefix(".")
        models = replaces or like
        node = ir.node(op, inputs, attributes=attributes, domain=domain, num_outputs=len(models), name=name)
        node.metadata_props.update(anchor.metadata_props)
        if module is not None and MODULE in node.metadata_props:
            node.metadata_props[MODULE] = module
        for output, model in zip(node.outputs, models, strict=True):
            if model is not None:
                output.shape, output.type = model.shape, model.type
        for old, new in zip(replaces, node.outputs, strict=False):
            new.name = old.name
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        (self.graph.insert_after if after else self.graph.insert_before)(anchor, node)
        return node

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every reader of `old` read `new`, which keeps its name unless `old` is an output of the graph."""
        if old.is_graph_output():
            name, old.name = old.name, None
            new.name = name
        old.replace_all_uses_with(new, replace_graph_outputs=True)

    def remove(self, nodes: Sequence[ir.Node]) -> None:
        """Remove nodes without readers, and the initializers that only they read."""
        read = {value for node in nodes for value in node.inputs if value is not None and value.is_initializer()}
        self.graph.remove(nodes, safe=True)
        for value in read:
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[str(value.name)]

    def finish(self) -> None:
        """Remove unused nodes and initializers, sort the nodes, and number equal names."""
        common.RemoveUnusedNodesPass()(self.model)
        common.TopologicalSortPass()(self.model)
        common.NameFixPass()(self.model)


def described(dtype: ir.DataType | None, shape: ir.Shape | Sequence[int | None] | None) -> ir.Value:
    """A value with this type and shape, for `like` of Editor.insert."""
    kind = None if dtype is None else ir.TensorType(dtype)
    return ir.Value(type=kind, shape=shape if shape is None or isinstance(shape, ir.Shape) else ir.Shape(shape))


def logit_projections(graph: ir.Graph) -> Iterator[ir.Node]:
    """The matrix products that make the logits, with no other product after them."""
    return last_products([graph.outputs[0]])


def last_products(values: Sequence[ir.Value]) -> Iterator[ir.Node]:
    """The matrix products that these values are computed from, with no other product after them."""
    waiting, seen = list(values), set()
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


def producer_if(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that computes a value, if it is a standard one of this type."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op and node.domain == "" else None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """A node's input, or None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """A node's attribute, or the operator's default."""
    return node.attributes[name].value if name in node.attributes else default


def dimension(value: ir.Value | None, axis: int) -> int:
    """A dimension that the contract makes a number."""
    assert value is not None
    assert value.shape is not None
    found = value.shape[axis]
    assert isinstance(found, int), f"{value.name} has no fixed size on axis {axis}"
    return found


def integers(value: ir.Value | None) -> list[int]:
    """The numbers of an integer constant; empty for any other value."""
    found = None if value is None else ir.convenience.get_const_tensor(value)
    return [] if found is None else [int(number) for number in np.ravel(found.numpy())]
