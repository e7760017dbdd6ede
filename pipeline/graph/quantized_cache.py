"""A cache of 8 or 4 bits in standard operators: what is written is divided by its scales and rounded, what attention
reads is multiplied by them.

    written:  Div by the scales -> QuantizeLinear with scale 1 -> TensorScatter
    read:     DequantizeLinear with scale 1 -> Mul by the scales

So a number is stored as QuantizeLinear would with a scale for each head and channel, which its one axis cannot say:
divided, rounded half to even, and saturated to -128 to 127 or -8 to 7. Numbers of 4 bits are stored plus 8, two in a
byte: the first channel of a pair in its low half.

ONNX Runtime 1.32's GroupQueryAttention stores equal bytes, compared with NumPy: `k_quant_type` and `v_quant_type`
PER_CHANNEL, scales [kv_heads * head_dim], `kv_cache_bit_width` 8 (int8) or 4 (uint8). It reads such a cache with ragged
rows, chunks on a cache that is not empty, windows, biases and sinks, and computes in fp32: an error of 3e-6. PER_TENSOR
takes as long.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.core.arrays import Floats
from pipeline.core.contract import CACHE_TYPES
from pipeline.graph.editor import Editor, described, dimension, producer_if

SUFFIX = ".scale"  # of a cache's name, for its scales [kv_heads, 1, head_dim]
ZERO, LOWEST, HIGHEST = 8, -8, 7  # of 4 bits
# operators from a value to the cache that it reads, and from what is written to the number before it was rounded
READS = {
    8: ("Mul", "DequantizeLinear"),
    4: ("Mul", "DequantizeLinear", "Reshape", "Concat", "Unsqueeze", "BitwiseAnd"),
}
WRITES = {8: ("QuantizeLinear", "Div"), 4: ("BitwiseOr", "Slice", "QuantizeLinear", "Clip", "Div")}


@dataclass(frozen=True)
class CacheRead:
    """A cache as an attention reads it. write: the TensorScatter into it; stored: the cache after that; new: keys or
    values before they are rounded, [batch, kv_heads, sequence, head_dim]; scales: None for one that is not quantized.
    """

    write: ir.Node
    stored: ir.Value
    new: ir.Value
    bits: int = 0
    scales: ir.Value | None = None

    @classmethod
    def of(cls, value: ir.Value | None) -> "CacheRead | None":
        """What a key or value operand of an attention reads; None where it reads something else."""
        write = producer_if(value, "TensorScatter")
        if write is not None and write.inputs[1] is not None:
            return cls(write, write.outputs[0], write.inputs[1])
        for bits in CACHE_TYPES:
            stored = _through(value, READS[bits])
            write = producer_if(stored, "TensorScatter")
            new = None if write is None else _through(write.inputs[1], WRITES[bits])
            multiply = producer_if(value, "Mul")
            if stored is not None and write is not None and new is not None and multiply is not None:
                return cls(write, stored, new, bits, multiply.inputs[1])
        return None


def _through(value: ir.Value | None, operators: tuple[str, ...]) -> ir.Value | None:
    """What is at the first inputs of these nodes, from the last to the first; None where they are others."""
    for operator in operators:
        node = producer_if(value, operator)
        if node is None:
            return None
        value = node.inputs[0]
    return value


def quantize(editor: Editor, write: ir.Node, bits: int, scales: Floats) -> None:
    """Give a TensorScatter's cache 8 or 4 bits; all that read it read numbers as before.

    scales: fp32 [kv_heads, head_dim]. Keys and values are fp32.
    """
    past, new, present = write.inputs[0], write.inputs[1], write.outputs[0]
    assert past is not None
    assert new is not None
    kind = ir.DataType.INT8 if bits == 8 else ir.DataType.UINT8
    shape, wide = past.shape, described(present.dtype, present.shape)
    assert shape is not None
    factor = editor.constant(f"{past.name}{SUFFIX}", scales[:, None].astype(np.float32))
    readers = list(present.uses())
    write.replace_input_with(1, _stored(editor, write, new, bits, factor))
    for value in (past, present):
        value.type, value.shape = ir.TensorType(kind), ir.Shape([*shape[:3], dimension(wide, 3) * bits // 8])
    if not readers:
        return
    read = dequantized(editor, readers[0].node, present, bits, factor)
    for use in readers:
        use.node.replace_input_with(use.idx, read)


def _stored(editor: Editor, anchor: ir.Node, new: ir.Value, bits: int, factor: ir.Value) -> ir.Value:
    """Numbers as they are stored, made before `anchor`."""

    def out(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return editor.insert(anchor, op, inputs, **attributes).outputs[0]

    divided = out("Div", new, factor)
    if bits == 8:
        return out("QuantizeLinear", divided, _one(editor), editor.constant("cache.zero8", np.array(0, np.int8)))
    low, high = (editor.constant(f"cache.{name}", np.array(n, np.float32)) for name, n in _LIMITS.items())
    whole = out("QuantizeLinear", out("Clip", divided, low, high), _one(editor), _zero4(editor))
    even, odd = (
        out("Slice", whole, _axis(editor, start), _axis(editor, 2**31 - 1), _axis(editor, 3), _axis(editor, 2))
        for start in (0, 1)
    )
    return out("BitwiseOr", even, out("BitShift", odd, _byte(editor, 4), direction="LEFT"))


def dequantized(editor: Editor, anchor: ir.Node, stored: ir.Value, bits: int, factor: ir.Value) -> ir.Value:
    """A quantized cache, or some of its slots, as numbers; made before `anchor`."""

    def out(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return editor.insert(anchor, op, inputs, **attributes).outputs[0]

    zero = editor.constant("cache.zero8", np.array(0, np.int8)) if bits == 8 else _zero4(editor)
    if bits == 4:
        halves = (
            out("BitwiseAnd", stored, _byte(editor, 15)),
            out("BitShift", stored, _byte(editor, 4), direction="RIGHT"),
        )
        pairs = out("Concat", *(out("Unsqueeze", half, _axis(editor, 4)) for half in halves), axis=4)
        flat = np.array([0, 0, 0, dimension(factor, 2)], np.int64)
        stored = out("Reshape", pairs, editor.constant(f"cache.flat.{flat[3]}", flat))
    read = editor.insert(anchor, "DequantizeLinear", [stored, _one(editor), zero]).outputs[0]
    shape = None if stored.shape is None else ir.Shape([*stored.shape[:3], dimension(factor, 2)])
    return editor.insert(anchor, "Mul", [read, factor], like=[described(factor.dtype, shape)]).outputs[0]


_LIMITS = {"lowest4": LOWEST, "highest4": HIGHEST}


def _one(editor: Editor) -> ir.Value:
    return editor.constant("cache.one", np.array(1, np.float32))


def _zero4(editor: Editor) -> ir.Value:
    return editor.constant("cache.zero4", np.array(ZERO, np.uint8))


def _byte(editor: Editor, number: int) -> ir.Value:
    return editor.constant(f"cache.byte.{number}", np.array(number, np.uint8))


def _axis(editor: Editor, number: int) -> ir.Value:
    return editor.constant(f"cache.index.{number}", np.array([number], np.int64))
