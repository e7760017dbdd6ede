"""Put quantized weights into a graph, in standard operators.

Four forms (a Grid has the numbers, T is the compute type):

* linear, x @ W with W [K, N]: MatMul(x, DequantizeLinear(q)), the scale [N] of each output channel (axis 1) or
  [K/B, N] of each block (axis 0, block_size B). Grids with an offset add MatMul(s, offset) with s [..., K/B] the sums
  of x over each block, since x @ (scale * q + offset) = x @ (scale * q) + s @ offset: exact, K/B products instead of K,
  and without zero points, which TensorRT's parser refuses in 4 bits. Scales that a format stores as small floats come
  out of a DequantizeLinear themselves. Columns in an order of their own get x in that order, by a Gather.
* table [V, H], gathered by token: Gather of q and of the scales, then DequantizeLinear, so only those rows are read.
  Offsets are gathered too, and added.
* experts, a stack [E, N, K] or [E, K, N] that a Loop takes one expert of: dequantized whole, with scales along the
  inputs' axis. TensorRT refuses to gather quantized weights; an engine for ONNX Runtime does not compute it like this.
* tied head, a table that is multiplied as well: the same q and scales, dequantized whole and transposed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.core.arrays import Array
from pipeline.graph.editor import Editor, described, operand
from pipeline.quantization.find import Weight
from pipeline.quantization.grids import Grid


class Writer:
    """Replaces weights of a model by their grids."""

    def __init__(self, model: ir.Model) -> None:
        self._editor = Editor(model)
        self._sums: dict[tuple[ir.Value, int], ir.Value] = {}

    def write(self, weight: Weight, grid: Grid) -> None:
        """Let the readers of a weight read its grid."""
        if weight.is_stack:
            self._stack(weight, grid)
            return
        if weight.is_table:
            self._table(weight, grid)
        else:
            self._linear(weight, grid)
        self._editor.remove(weight.readers)

    def finish(self) -> None:
        """Give equal names numbers."""
        self._editor.finish()

    def _linear(self, weight: Weight, grid: Grid) -> None:
        dtype, (n, k) = weight.tensor.dtype, grid.q.shape
        per_channel = grid.block == k and grid.format.bits == 8
        form = {"axis": 1} if per_channel else {"axis": 0, "block_size": grid.block}
        q = self._numbers(weight, grid, grid.q.T)
        if grid.format.scales is not None:
            scale = self._stored_scales(weight, grid)
        else:
            scale = self._floats(weight, "scale", grid.scale[:, 0] if per_channel else grid.scale.T)
        # "center" is what the artifacts call the offset
        offset = None if grid.offset is None else self._floats(weight, "center", grid.offset.T)
        order = None if grid.order is None else self._constant(weight, "order", grid.order)
        for reader in weight.readers:
            x, bias = reader.inputs[0], operand(reader, 2)  # MatMul has two inputs, Gemm may have a third
            assert x is not None
            if order is not None:
                x = self._before(reader, "Gather", [x, order], described(dtype, x.shape), axis=-1)
            sums = None if offset is None else self._block_sums(x, k, grid.block)
            whole = self._before(reader, "DequantizeLinear", [q, scale], described(dtype, [k, n]), **form)
            like = described(dtype, reader.outputs[0].shape)
            last = offset is None and bias is None
            y = self._before(reader, "MatMul", [x, whole], None if last else like)
            if offset is not None:
                shift = self._before(reader, "MatMul", [sums, offset], like)
                y = self._before(reader, "Add", [y, shift], None if bias is None else like)
            if bias is not None:
                self._before(reader, "Add", [y, bias], None)

    def _table(self, weight: Weight, grid: Grid) -> None:
        dtype, block = weight.tensor.dtype, grid.block
        stored = [self._numbers(weight, grid, grid.q), self._floats(weight, "scale", grid.scale)]
        offset = None if grid.offset is None else self._floats(weight, "center", grid.offset)
        for reader in weight.readers:
            if reader.op_type == "Gather":
                ids = reader.inputs[1]
                rows = [self._before(reader, "Gather", [v, ids], described(v.dtype, None), axis=0) for v in stored]
                like = None if offset is None else described(dtype, reader.outputs[0].shape)
                values = self._before(reader, "DequantizeLinear", rows, like, axis=-1, block_size=block)
                if offset is not None:
                    self._add_offsets(reader, values, offset, block)
            else:
                assert offset is None, "a tied head has no form with offsets"
                like = described(dtype, grid.q.shape)
                whole = self._before(reader, "DequantizeLinear", stored, like, axis=1, block_size=block)
                self._before(reader, "Transpose", [whole], None, perm=[1, 0])

    def _stack(self, weight: Weight, grid: Grid) -> None:
        assert grid.offset is None
        dtype, sizes = weight.tensor.dtype, weight.tensor.shape.numpy()
        axis = 2 if weight.by_rows else 1

        def stacked(array: Array) -> Array:
            rows = array.reshape(sizes[0], -1, array.shape[1])
            return rows if weight.by_rows else rows.swapaxes(1, 2)

        stored = [self._numbers(weight, grid, stacked(grid.q)), self._floats(weight, "scale", stacked(grid.scale))]
        (loop,) = weight.readers
        whole = self._before(
            loop, "DequantizeLinear", stored, described(dtype, sizes), axis=axis, block_size=grid.block
        )
        self._editor.replace(weight.value, whole)
        del self._editor.graph.initializers[str(weight.value.name)]

    def _add_offsets(self, reader: ir.Node, values: ir.Value, offset: ir.Value, block: int) -> None:
        """Let readers of gathered rows [..., H] have them with each block's offset [V, H/B] added."""
        ids, unknown = reader.inputs[1], described(values.dtype, None)
        lead = [0] * (2 if ids is None or ids.shape is None else ids.shape.rank())  # 0: as in the values
        shape = self._editor.constant(f"rows.{len(lead)}.{block}", np.array([*lead, -1, block], np.int64))
        flat = self._editor.constant(f"rows.{len(lead)}", np.array([*lead, -1], np.int64))
        last = self._editor.constant("last_axis", np.array([-1], np.int64))
        blocks = self._before(reader, "Reshape", [values, shape], unknown)
        rows = self._before(reader, "Gather", [offset, ids], unknown, axis=0)
        apart = self._before(reader, "Unsqueeze", [rows, last], unknown)
        both = self._before(reader, "Add", [blocks, apart], unknown)
        self._before(reader, "Reshape", [both, flat], None)

    def _before(
        self, reader: ir.Node, op: str, inputs: Sequence[ir.Value | None], like: ir.Value | None, **attributes: Any
    ) -> ir.Value:
        """A new node's output; like: its type and shape, None for the node whose output replaces the reader's."""
        outputs = {"replaces": reader.outputs} if like is None else {"like": [like]}
        return self._editor.insert(reader, op, inputs, **outputs, **attributes).outputs[0]

    def _block_sums(self, x: ir.Value, k: int, block: int) -> ir.Value:
        """x [..., K] summed over each block, [..., K/B]; made once for each x."""
        if (x, block) not in self._sums:
            producer = x.producer()
            assert producer is not None
            editor, like = self._editor, [described(x.dtype, None)]
            lead = [0] * (2 if x.shape is None else x.shape.rank() - 1)  # 0: as in x
            sizes = np.array([*lead, k // block, block], np.int64)
            shape = editor.constant(f"blocks.{len(lead)}.{k // block}.{block}", sizes)
            blocks = editor.insert(producer, "Reshape", [x, shape], after=True, like=like)
            axis = editor.constant("last_axis", np.array([-1], np.int64))
            summed = editor.insert(blocks, "ReduceSum", [blocks.outputs[0], axis], after=True, like=like, keepdims=0)
            self._sums[x, block] = summed.outputs[0]
        return self._sums[x, block]

    def _stored_scales(self, weight: Weight, grid: Grid) -> ir.Value:
        """The scales [K/B, N] of a format that stores them in a type of its own, dequantized once for all readers."""
        steps, unit = grid.stored_scales()
        stored = self._constant(weight, "scale", steps.T)
        one = self._floats(weight, "scale.unit", np.array(unit))
        module = f"{str(weight.readers[0].name).rpartition('.')[0]}.scale"
        like = [described(weight.tensor.dtype, stored.shape)]
        first = self._editor.graph[0]
        return self._editor.insert(first, "DequantizeLinear", [stored, one], module=module, like=like).outputs[0]

    def _numbers(self, weight: Weight, grid: Grid, q: Array) -> ir.Value:
        return self._constant(weight, grid.format.numbers, q.astype(np.dtype(grid.format.numbers), copy=False))

    def _floats(self, weight: Weight, part: str, array: Array) -> ir.Value:
        return self._constant(weight, part, array.astype(weight.tensor.dtype.numpy(), copy=False))

    def _constant(self, weight: Weight, part: str, array: Array) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array), name=f"{weight.value.name}.{part}")
        return self._editor.initializer(tensor)
