"""Lower quantized weights for ONNX Runtime: DequantizeLinear and MatMul become one MatMulNBits.

The standard form keeps a weight as [K, N]; MatMulNBits wants each output's values together, in blocks along K, as
unsigned numbers around the middle of their range. Nothing is rounded: scales and values stay as they are.
An embedding that is the head as well is read in this form too, so it is stored once.

What the quick kernel rounds is its input, to 8 bits in blocks. Rows of the input's digits undo that: the rounded input,
what rounding took off, rounded in turn, and so on; the kernel leaves them as they are, and their products are summed.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.backends.onnxruntime.attention import DOMAIN
from pipeline.graph.editor import Editor, add_initializer, attribute, made_by

BITS = {ir.DataType.INT8: 8, ir.DataType.INT4: 4}
# For one scale per row, where every size gives the same weights, but rounds activations in blocks of that size:
# SmolLM2's int8 perplexity rises by 0.57 % with 32, 0.63 % with 64, 1.15 % with 128 (over 2,048 tokens).
ROW_BLOCK = 32
INT8_ACTIVATIONS, FULL_ACTIVATIONS = 4, 0  # MatMulNBits' accuracy_level
EXACT = 3  # digits of 8 bits that hold the 24 of a float32


def lower_linear(editor: Editor, node: ir.Node, *, digits: int) -> None:
    """Rewrite one MatMul whose weight is dequantized, [K, N] or a transposed [N, K]; any other is left as it is.
    `digits`: of 8 bits, in which the kernel gets its input; 0 asks for the kernel that does not round."""
    transpose = made_by(node.inputs[1], "Transpose")
    dequantize = made_by(transpose.inputs[0] if transpose is not None else node.inputs[1], "DequantizeLinear")
    if dequantize is None or len(dequantize.inputs) != 2:
        return
    weight, scale = dequantize.inputs
    if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
        return
    bits = BITS.get(weight.const_value.dtype)
    rows = transpose is not None  # an output's values lie in a row
    outputs, width = (int(n) for n in (weight.shape if rows else reversed(weight.shape)))  # type: ignore[arg-type, union-attr]
    block = attribute(dequantize, "block_size", 0)
    along = attribute(dequantize, "axis", 1) == (1 if rows else 0)
    if bits is None or along != bool(block):
        return
    # a scale for a whole row is repeated for blocks of it
    block, repeats = (block, 1) if 0 < block < width else (ROW_BLOCK, -(-width // ROW_BLOCK))
    blocks = -(-width // block)
    editor_name = str(weight.name)
    packed = ir.LazyTensor(
        partial(_packed, weight.const_value, rows, block, bits, editor_name),
        dtype=ir.DataType.UINT8,
        shape=ir.Shape([outputs, blocks, block * bits // 8]),
        name=f"{editor_name}.packed",
    )
    factors = scale.const_value.numpy()
    factors = np.repeat((factors if rows else factors.T).reshape(outputs, -1), repeats, axis=1)
    scales = editor.constant(f"{scale.name}.packed", np.ascontiguousarray(factors))
    x = node.inputs[0]
    assert x is not None
    if digits == EXACT and bits == 4:
        digits = 0  # its kernel that does not round takes 1.4 times as long; that for 8 bits, 13 to 100 times
    shape = node.outputs[0].shape  # as long as x's own, which lowering does not keep
    if digits > 1 and (width % block or shape is None or len(shape) != 3):
        digits = 0 if digits == EXACT else 1
    fused = editor.insert(
        node,
        "MatMulNBits",
        [_in_digits(editor, node, x, block, digits) if digits > 1 else x, _shared(editor, packed), scales],
        domain=DOMAIN,
        like=(None,) if digits > 1 else node.outputs,
        K=width,
        N=outputs,
        bits=bits,
        block_size=block,
        accuracy_level=INT8_ACTIVATIONS if digits else FULL_ACTIVATIONS,
    )
    if digits > 1:
        parts = editor.insert(node, "Split", fused.outputs, like=(None,) * digits, axis=0, num_outputs=digits)
        fused = editor.insert(node, "Sum", parts.outputs, like=node.outputs)
    editor.replace(node.outputs[0], fused.outputs[0])


def _in_digits(editor: Editor, node: ir.Node, x: ir.Value, block: int, digits: int) -> ir.Value:
    """x [batch, n, K] as [digits * batch, n, K]: rounded as the kernel does it, then what that takes off, rounded, and
    at last what is left. A step is a 127th of its block's largest number."""

    def out(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return editor.insert(node, op, inputs, **attributes).outputs[0]  # type: ignore[arg-type]  # ours are ints

    assert node.outputs[0].dtype is not None
    dtype = node.outputs[0].dtype.numpy()
    least = editor.constant(f"lowered.least.{dtype}", np.array(np.finfo(dtype).tiny, dtype))  # of a block of zeros
    last = editor.constant(f"lowered.steps.{dtype}", np.array(127, dtype))
    axis = editor.constant("lowered.last", np.array([-1], np.int64))
    rest = out("Reshape", x, editor.constant(f"lowered.blocks.{block}", np.array([0, 0, -1, block], np.int64)))
    rows = []
    for _ in range(digits - 1):
        step = out("Max", out("Div", out("ReduceMax", out("Abs", rest), axis), last), least)
        rows.append(out("Mul", out("Round", out("Div", rest, step)), step))
        rest = out("Sub", rest, rows[-1])
    both = out("Concat", *rows, rest, axis=0)
    return out("Reshape", both, editor.constant("lowered.rows", np.array([0, 0, -1], np.int64)))


def lower_table(editor: Editor, node: ir.Node) -> None:
    """Rewrite one DequantizeLinear of gathered rows, if `lower_linear` has packed the table for the head: Gather of
    values and of scales, and DequantizeLinear become GatherBlockQuantized. Any other is left as it is."""
    values, scales = (made_by(value, "Gather") for value in node.inputs[:2])
    table, factors = (gather.inputs[0] if gather is not None else None for gather in (values, scales))
    if values is None or table is None or factors is None:
        return
    packed = editor.graph.initializers.get(f"{table.name}.packed")
    if packed is None or packed.shape is None or table.shape is None:
        return
    _, blocks, block = packed.shape.numpy()
    if blocks * block != table.shape[1]:
        return  # its last block is filled up
    scale = editor.graph.initializers[f"{factors.name}.packed"]
    one_a_block = editor.constant("lowered.blocks", np.array([0, 0, 1], np.int64))
    scale = editor.insert(node, "Reshape", [scale, one_a_block]).outputs[0]  # folded when the engine is loaded
    rows = editor.insert(
        node,
        "GatherBlockQuantized",
        [packed, values.inputs[1], scale],
        domain=DOMAIN,
        gather_axis=0,
        quantize_axis=2,
        block_size=block,
        bits=8,
    )
    whole = editor.constant("lowered.rows", np.array([0, 0, -1], np.int64))
    flat = editor.insert(node, "Reshape", [rows.outputs[0], whole], like=node.outputs)
    editor.replace(node.outputs[0], flat.outputs[0])


def _shared(editor: Editor, tensor: ir.TensorProtocol) -> ir.Value:
    return editor.graph.initializers.get(str(tensor.name)) or add_initializer(editor.graph, tensor)


def _packed(weight: ir.TensorProtocol, rows: bool, block: int, bits: int, name: str) -> ir.TensorProtocol:
    return ir.tensor(pack(weight.numpy() if rows else weight.numpy().T, block, bits), name=f"{name}.packed")


def pack(values: npt.NDArray[np.generic], block: int, bits: int) -> npt.NDArray[np.uint8]:
    """Signed integers [N, K] as MatMulNBits' B, [N, ceil(K / block), block * bits / 8]; two of 4 bits share a byte,
    the earlier one in the low half. The last block is filled up with zeros."""
    middle = 1 << (bits - 1)
    unsigned = (values.astype(np.int16) + middle).astype(np.uint8)
    outputs, width = unsigned.shape
    filled = np.pad(unsigned, ((0, 0), (0, -width % block)), constant_values=middle).reshape(outputs, -1, block)
    if bits == 8:
        return filled
    return np.bitwise_or(filled[..., 0::2], np.left_shift(filled[..., 1::2], 4), dtype=np.uint8)
