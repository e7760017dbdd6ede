"""The weights of a graph that are worth quantizing, found by what reads them; and the same weights as whole numbers.

Three forms, all in standard operators (Grid has the numbers, T is the compute type):

* linear, x @ W with W [K, N]: MatMul(x, DequantizeLinear(q)), the scale [N] of each output channel (axis 1) or
  [K/B, N] of each block (axis 0, block_size B). Grids with a center add MatMul(s, center) with s [..., K/B] the sums
  of x over each block, since x @ (scale * q + center) = x @ (scale * q) + s @ center: exact, K/B products instead of K,
  and without zero points, which TensorRT's parser refuses in 4 bits. Small floats have the same forms; the scales of
  floats of 4 bits are DequantizeLinear of floats of 8 bits.
* table [V, H], gathered by token: Gather of q and of the scales, then DequantizeLinear, so only those rows are read.
* tied head, a table that is multiplied as well: the same q and scales, dequantized whole and transposed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.editor import logit_projections
from pipeline.quantization.grids import FLOAT4, Grid

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
SAME_TOKENS = {"Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"}  # ids stay ids


@dataclass(frozen=True)
class Weight:
    """A weight and its readers: MatMul or Gemm for a linear one; Gather, and Transpose of a tied head, for a table."""

    value: ir.Value
    readers: tuple[ir.Node, ...]
    is_table: bool
    is_head: bool
    by_rows: bool  # stored [N, K], output channels first

    @property
    def tensor(self) -> ir.TensorProtocol:
        """Its numbers."""
        assert self.value.const_value is not None
        return self.value.const_value

    @property
    def width(self) -> int:
        """K: the values of a row."""
        return int(self.tensor.shape.numpy()[1 if self.by_rows else 0])

    def rows(self) -> npt.NDArray[np.floating]:
        """Its numbers as rows [N, K], one for each output channel."""
        array = self.tensor.numpy()
        return array if self.by_rows else array.T

    def release(self) -> None:
        """Let its pages of the data file leave memory."""
        if isinstance(self.tensor, ir.ExternalTensor):
            self.tensor.release()


def find(graph: ir.Graph, least: int) -> list[Weight]:
    """The 2-D weights of at least `least` bytes that only linear layers, or only embedding and tied head, read."""
    last = set(logit_projections(graph))
    found = []
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < least or tensor.dtype not in FLOATS or len(tensor.shape) != 2:
            continue
        uses = value.uses()
        readers = tuple(use.node for use in uses)
        layouts = {_layout(use.node, use.idx) for use in uses}
        if value.is_graph_output() or not uses:
            continue
        if layouts in ({"[K, N]"}, {"[N, K]"}):
            found.append(Weight(value, readers, False, not last.isdisjoint(readers), layouts == {"[N, K]"}))
        elif "rows" in layouts and layouts <= {"rows", "transposed"}:
            found.append(Weight(value, readers, True, False, True))
    return found


def _layout(node: ir.Node, position: int) -> str | None:
    """How a node reads a weight at an input; None for a way that cannot be quantized."""
    attributes = node.attributes
    if (node.op_type, position) == ("MatMul", 1):
        return "[K, N]"
    if (node.op_type, position) == ("Gemm", 1):
        plain = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
        if plain and not attributes.get_int("transA", 0):
            return "[N, K]" if attributes.get_int("transB", 0) else "[K, N]"
    if (node.op_type, position) == ("Gather", 0) and attributes.get_int("axis", 0) == 0 and _is_tokens(node.inputs[1]):
        return "rows"
    if node.op_type == "Transpose" and all(
        (use.node.op_type, use.idx) == ("MatMul", 1) for use in node.outputs[0].uses()
    ):
        return "transposed"
    return None


def _is_tokens(ids: ir.Value | None) -> bool:
    """Whether these are the graph's first input, input_ids: a table of positions is read by other numbers."""
    while ids is not None and (node := ids.producer()) is not None and node.op_type in SAME_TOKENS:
        ids = node.inputs[0]
    return ids is not None and ids.is_graph_input() and ids.name == "input_ids"


class Writer:
    """Replaces weights by their grids in a graph."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._sums: dict[tuple[ir.Value, int], ir.Value] = {}

    def linear(self, weight: Weight, grid: Grid) -> list[ir.Value]:
        """Let the readers of a linear weight [K, N] read its grid; returns the new initializers."""
        dtype, (n, k) = weight.tensor.dtype, grid.q.shape
        per_channel = grid.block == k and grid.bits == 8
        scale = grid.scale[:, 0] if per_channel else grid.scale.T
        new = [self._numbers(weight, grid, grid.q.T)]
        new.append(self._levels(weight, grid) if grid.q.dtype == FLOAT4 else self._floats(weight, ".scale", scale))
        form = {"axis": 1} if per_channel else {"axis": 0, "block_size": grid.block}
        if grid.center is not None:
            new.append(self._floats(weight, ".center", grid.center.T))
        for reader in weight.readers:
            x, shape = reader.inputs[0], reader.outputs[0].shape
            assert x is not None
            nodes = [_node("DequantizeLinear", new[:2], dtype, [k, n], **form)]
            nodes.append(_node("MatMul", [x, nodes[0].outputs[0]], dtype, shape))
            if grid.center is not None:
                nodes.append(_node("MatMul", [self._block_sums(x, k, grid.block), new[2]], dtype, shape))
                nodes.append(_node("Add", _outputs(nodes[1:]), dtype, shape))
            if reader.op_type == "Gemm" and len(reader.inputs) > 2 and reader.inputs[2] is not None:
                nodes.append(_node("Add", [nodes[-1].outputs[0], reader.inputs[2]], dtype, shape))
            self._replace(reader, nodes)
        self._graph.initializers.pop(str(weight.value.name))
        return new

    def table(self, weight: Weight, grid: Grid) -> list[ir.Value]:
        """Let the readers of a table [V, H] read its grid; returns the new initializers."""
        assert grid.center is None
        dtype = weight.tensor.dtype
        new = [self._numbers(weight, grid, grid.q), self._floats(weight, ".scale", grid.scale)]
        for reader in weight.readers:
            out = reader.outputs[0]
            if reader.op_type == "Gather":
                ids = reader.inputs[1]
                assert ids is not None
                rows = [_node("Gather", [value, ids], value.dtype, None, axis=0) for value in new]
                last = _node("DequantizeLinear", _outputs(rows), dtype, out.shape, axis=-1, block_size=grid.block)
                nodes = [*rows, last]
            else:
                whole = _node("DequantizeLinear", new, dtype, list(grid.q.shape), axis=1, block_size=grid.block)
                nodes = [whole, _node("Transpose", _outputs([whole]), dtype, out.shape, perm=[1, 0])]
            self._replace(reader, nodes)
        self._graph.initializers.pop(str(weight.value.name))
        return new

    def _block_sums(self, x: ir.Value, k: int, block: int) -> ir.Value:
        """x [..., K] summed over each block, [..., K/B]; made once for each x."""
        if (x, block) not in self._sums:
            lead = [0] * (2 if x.shape is None else x.shape.rank() - 1)  # 0: as in x
            blocks = self._constant(f"blocks.{len(lead)}.{k // block}.{block}", [*lead, k // block, block])
            reshaped = _node("Reshape", [x, blocks], x.dtype, None)
            axes = self._constant("last_axis", [-1])
            summed = _node("ReduceSum", [reshaped.outputs[0], axes], x.dtype, None, keepdims=0)
            producer = x.producer()
            assert producer is not None
            for node in (reshaped, summed):
                node.name = f"{str(producer.name).rpartition('.')[0]}.{node.op_type}"
            self._graph.insert_after(producer, [reshaped, summed])
            self._sums[x, block] = summed.outputs[0]
        return self._sums[x, block]

    def _replace(self, old: ir.Node, new: list[ir.Node]) -> None:
        for node in new:
            node.name = f"{str(old.name).rpartition('.')[0]}.{node.op_type}"
        ir.convenience.replace_nodes_and_values(self._graph, old, [old], new, old.outputs, new[-1].outputs)

    def _numbers(self, weight: Weight, grid: Grid, q: np.ndarray) -> ir.Value:
        array = np.ascontiguousarray(q)
        return self._register(
            f"{weight.value.name}.{grid.kind}", array.astype(ml_dtypes.int4) if grid.kind == "int4" else array
        )

    def _levels(self, weight: Weight, grid: Grid) -> ir.Value:
        """The scales [K/B, N] of small floats, as what DequantizeLinear makes of floats of 8 bits."""
        steps, unit = grid.levels()
        shape = list(steps.T.shape)
        stored = self._register(f"{weight.value.name}.scale", np.ascontiguousarray(steps.T))
        one = self._floats(weight, ".scale.unit", np.array(unit))
        node = _node("DequantizeLinear", [stored, one], weight.tensor.dtype, shape)
        node.name = f"{str(weight.readers[0].name).rpartition('.')[0]}.scale.DequantizeLinear"
        self._graph.insert_before(self._graph[0], node)
        return node.outputs[0]

    def _floats(self, weight: Weight, suffix: str, array: np.ndarray) -> ir.Value:
        return self._register(f"{weight.value.name}{suffix}", np.ascontiguousarray(array, weight.tensor.dtype.numpy()))

    def _constant(self, name: str, numbers: list[int]) -> ir.Value:
        return self._graph.initializers.get(name) or self._register(name, np.array(numbers, np.int64))

    def _register(self, name: str, array: np.ndarray) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.register_initializer(value)
        return value


def _outputs(nodes: list[ir.Node]) -> list[ir.Value]:
    return [node.outputs[0] for node in nodes]


def _node(
    op: str,
    inputs: Sequence[ir.Value],
    dtype: ir.DataType | None,
    shape: ir.Shape | list[int] | None,
    **attributes: int | list[int],
) -> ir.Node:
    node = ir.node(op, inputs, attributes)
    output = node.outputs[0]
    output.type = None if dtype is None else ir.TensorType(dtype)
    output.shape = ir.Shape(shape) if isinstance(shape, list) else shape
    return node
