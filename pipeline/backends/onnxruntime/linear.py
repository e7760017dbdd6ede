"""Lower quantized weights for ONNX Runtime: DequantizeLinear and MatMul become one MatMulNBits.

The standard form keeps a weight as [K, N]; MatMulNBits wants each output's values together, in blocks along K, as
unsigned numbers around the middle of their range. Nothing is rounded: scales and values stay as they are.
An embedding that is the LM head as well is read in this form too, so it is stored once.

The fast kernel rounds its input x to 8 bits in blocks. To undo that, x is split into parts that the kernel does not
change: x rounded as the kernel rounds it, the rounded remainder, and so on. Their products are summed.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.backends.onnxruntime.attention import DOMAIN
from pipeline.core.tables.engines import CPU
from pipeline.core.tables.formats import FORMATS
from pipeline.graph.editor import Editor, attribute, producer_if

# the types of weights that MatMulNBits computes with, and their bits
BITS = {
    ir.DataType.from_numpy(np.dtype(fmt.numbers)): fmt.bits
    for fmt in FORMATS.values()
    if not fmt.is_float and CPU in fmt.providers
}
# For one scale per row, where every size gives the same weights, but rounds activations in blocks of that size:
# SmolLM2's int8 perplexity rises by 0.57 % with 32, 0.63 % with 64, 1.15 % with 128 (over 2,048 tokens).
ROW_BLOCK = 32
INT8_ACTIVATIONS, FULL_ACTIVATIONS = 4, 0  # MatMulNBits' accuracy_level


class Activations(Enum):
    """How exactly a product takes its input: its parts of 8 bits."""

    int8 = 1  # as the fast kernel rounds it
    int16 = 2  # and its rounding error
    exact = 3  # and the error of that: 24 bits, a float32's mantissa
    native = 0  # as the runtime's own kernel takes it, which rounds nothing


def plan(wanted: Activations, bits: int, *, splits: bool) -> tuple[int, int]:
    """The fastest kernel that is as exact as wanted: parts of the input (1: as it is), MatMulNBits' accuracy_level.

    bits: of a weight. splits: whether the input can be split, which takes a known rank and blocks that fill its rows.
    """
    if wanted is Activations.native or (wanted is Activations.exact and (bits < 8 or not splits)):
        # in 4 bits the kernel that does not round takes 1.4 times as long; in 8 bits 13 to 100 times
        return 1, FULL_ACTIVATIONS
    return wanted.value if splits else 1, INT8_ACTIVATIONS


@dataclass(frozen=True)
class Product:
    """A MatMul of x [..., K] with a dequantized weight. by_rows: whether it is stored [N, K] instead of [K, N]."""

    x: ir.Value
    weight: ir.Value
    scale: ir.Value
    by_rows: bool
    outputs: int  # N
    width: int  # K
    bits: int
    block: int  # weights that share a scale in MatMulNBits

    @classmethod
    def of(cls, node: ir.Node) -> "Product | None":
        """The product that a MatMul is; None where its weight is not dequantized, or in a form without a kernel."""
        transpose = producer_if(node.inputs[1], "Transpose")
        dequantize = producer_if(transpose.inputs[0] if transpose is not None else node.inputs[1], "DequantizeLinear")
        if dequantize is None or len(dequantize.inputs) != 2:
            return None
        x, (weight, scale) = node.inputs[0], dequantize.inputs
        if x is None or weight is None or scale is None or weight.const_value is None or scale.const_value is None:
            return None
        bits, by_rows = BITS.get(weight.const_value.dtype), transpose is not None
        outputs, width = weight.const_value.shape.numpy()[:: 1 if by_rows else -1]
        block = attribute(dequantize, "block_size", 0)
        along = attribute(dequantize, "axis", 1) == (1 if by_rows else 0)
        if bits is None or along != bool(block):
            return None
        return cls(x, weight, scale, by_rows, outputs, width, bits, block if 0 < block < width else ROW_BLOCK)

    def packed(self) -> ir.LazyTensor:
        """The weight as MatMulNBits' B, packed when it is written."""
        name, blocks = f"{self.weight.name}.packed", -(-self.width // self.block)
        shape = ir.Shape([self.outputs, blocks, self.block * self.bits // 8])
        return ir.LazyTensor(
            lambda: ir.tensor(pack(self._rows(self.weight), self.block, self.bits), name=name),
            dtype=ir.DataType.UINT8,
            shape=shape,
            name=name,
        )

    def scales(self) -> npt.NDArray[Any]:
        """The scales [N, blocks] of MatMulNBits; one for a whole row is repeated."""
        scales = self._rows(self.scale).reshape(self.outputs, -1)
        repeats = -(-self.width // self.block) // scales.shape[1]
        return np.ascontiguousarray(np.repeat(scales, repeats, axis=1))

    def _rows(self, value: ir.Value) -> npt.NDArray[Any]:
        assert value.const_value is not None
        return value.const_value.numpy() if self.by_rows else value.const_value.numpy().T


class LinearLowering:
    """Rewrites products with quantized weights, and after them tables that share one of these weights."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self._weights: dict[ir.Value, ir.Value] = {}  # quantized weight -> MatMulNBits' B
        self._scales: dict[ir.Value, ir.Value] = {}

    def lower(self, node: ir.Node, wanted: Activations) -> None:
        """Rewrite one MatMul; any that is not a product with a quantized weight is left as it is."""
        product, out = Product.of(node), node.outputs[0]
        if product is None:
            return
        # the rank is the output's, as lowering does not keep shapes of inputs
        splits = product.width % product.block == 0 and out.shape is not None and len(out.shape) == 3
        parts, accuracy_level = plan(wanted, product.bits, splits=splits)
        editor, weight = self.editor, product.weight
        scales = self._scales[product.scale] = editor.constant(f"{product.scale.name}.packed", product.scales())
        x = product.x if parts == 1 else self._split(node, product, parts)
        if weight not in self._weights:
            self._weights[weight] = editor.initializer(product.packed())
        fused = editor.insert(
            node,
            "MatMulNBits",
            [x, self._weights[weight], scales],
            domain=DOMAIN,
            like=(out if parts == 1 else None,),
            K=product.width,
            N=product.outputs,
            bits=product.bits,
            block_size=product.block,
            accuracy_level=accuracy_level,
        )
        if parts > 1:
            split = editor.insert(node, "Split", fused.outputs, like=(None,) * parts, axis=0, num_outputs=parts)
            fused = editor.insert(node, "Sum", split.outputs, like=[out])
        editor.replace(out, fused.outputs[0])

    def _split(self, node: ir.Node, product: Product, parts: int) -> ir.Value:
        """x [batch, n, K] as [parts * batch, n, K]: rounded as the kernel does it, the remainder likewise, and at last
        what is left. A step is a 127th of its block's largest number."""
        editor, block = self.editor, product.block

        def insert(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            return editor.insert(node, op, inputs, **attributes).outputs[0]  # type: ignore[arg-type]  # ours are ints

        assert node.outputs[0].dtype is not None
        dtype = node.outputs[0].dtype.numpy()
        least = editor.constant(f"lowered.least.{dtype}", np.array(np.finfo(dtype).tiny, dtype))  # of a block of zeros
        last = editor.constant(f"lowered.steps.{dtype}", np.array(127, dtype))
        axis = editor.constant("lowered.last", np.array([-1], np.int64))
        shape = editor.constant(f"lowered.blocks.{block}", np.array([0, 0, -1, block], np.int64))
        rest = insert("Reshape", product.x, shape)
        rounded = []
        for _ in range(parts - 1):
            step = insert("Max", insert("Div", insert("ReduceMax", insert("Abs", rest), axis), last), least)
            rounded.append(insert("Mul", insert("Round", insert("Div", rest, step)), step))
            rest = insert("Sub", rest, rounded[-1])
        both = insert("Concat", *rounded, rest, axis=0)
        return insert("Reshape", both, editor.constant("lowered.rows", np.array([0, 0, -1], np.int64)))

    def lower_rows(self, node: ir.Node) -> None:
        """Rewrite one DequantizeLinear of gathered rows, if `lower` has packed their table: Gather of values and of
        scales, and DequantizeLinear become GatherBlockQuantized. Any other is left as it is."""
        editor = self.editor
        values, scales = (producer_if(value, "Gather") for value in node.inputs[:2])
        table, scale = (gather.inputs[0] if gather is not None else None for gather in (values, scales))
        if values is None or table not in self._weights or scale not in self._scales:
            return
        packed = self._weights[table]
        assert packed.shape is not None
        assert table.shape is not None
        _, blocks, block = packed.shape.numpy()
        if blocks * block != table.shape[1]:
            return  # its last block is padded
        one_per_block = editor.constant("lowered.blocks", np.array([0, 0, 1], np.int64))
        factors = editor.insert(node, "Reshape", [self._scales[scale], one_per_block])  # folded when loaded
        rows = editor.insert(
            node,
            "GatherBlockQuantized",
            [packed, values.inputs[1], factors.outputs[0]],
            domain=DOMAIN,
            gather_axis=0,
            quantize_axis=2,
            block_size=block,
            bits=8,
        )
        whole = editor.constant("lowered.rows", np.array([0, 0, -1], np.int64))
        flat = editor.insert(node, "Reshape", [rows.outputs[0], whole], like=node.outputs)
        editor.replace(node.outputs[0], flat.outputs[0])


def pack(values: npt.NDArray[np.generic], block: int, bits: int) -> npt.NDArray[np.uint8]:
    """Signed integers [N, K] as MatMulNBits' B, [N, ceil(K / block), block * bits / 8]; two of 4 bits share a byte,
    the earlier one in the low half. The last block is padded with zeros."""
    middle = 1 << (bits - 1)
    unsigned = (values.astype(np.int16) + middle).astype(np.uint8)
    outputs, width = unsigned.shape
    filled = np.pad(unsigned, ((0, 0), (0, -width % block)), constant_values=middle).reshape(outputs, -1, block)
    if bits == 8:
        return filled
    return np.bitwise_or(filled[..., 0::2], np.left_shift(filled[..., 1::2], 4), dtype=np.uint8)
