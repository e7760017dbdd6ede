"""Lower a mixture of experts for ONNX Runtime: the Loop over blocks of tokens becomes one MoE, or QMoE of quantized
weights.

Both kernels want the rows of gate and up one after the other (g0, u0, g1, u1, ...), so the engine has weights in an
order of its own. They choose experts by themselves, from one number for each expert: so the router's choice goes in
as numbers of which they choose the same experts. MoE makes the weights of the logarithms, up to a factor; QMoE takes
the weights beside them. Experts with another activation keep the Loop.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.backends.onnxruntime.attention import DOMAIN
from pipeline.backends.onnxruntime.linear import BITS, FULL_ACTIVATIONS, INT8_ACTIVATIONS, pack
from pipeline.graph.editor import Editor, attribute, described, operand, producer_if
from pipeline.graph.expert_form import ExpertForm, Stack

NOT_GIVEN: list[ir.Value | None] = [None] * 6  # inputs of QMoE: a third product, and zero points
NOT_CHOSEN = -1e4  # its exponential is 0


class ExpertsLowering:
    """Rewrites the mixtures of one graph."""

    def __init__(self, editor: Editor, *, int8_activations: bool) -> None:
        self.editor = editor
        self.int8_activations = int8_activations

    def lower(self, node: ir.Node) -> None:
        """Rewrite one Loop; any that is no mixture, or one without a kernel, is left as it is."""
        form = ExpertForm.of(node)
        gate = None if form is None else _gate(form)
        if form is None or gate is None:
            return
        layout, options = gate
        quantized = [_Quantized.of(stack) for stack in (form.up, form.down)]
        floats = [stack.weight.const_value for stack in (form.up, form.down)]
        k = form.indices.shape[1] if form.indices.shape is not None else None
        common: dict[str, Any] = options | {"activation_type": "swiglu", "swiglu_fusion": 1, "k": k}
        if all(floats) and form.hidden.dtype is form.weights.dtype is ir.DataType.FLOAT:
            self._floats(node, form, layout, common)
        elif all(quantized):
            self._quantized(node, form, layout, common, [q for q in quantized if q is not None])

    def _floats(self, node: ir.Node, form: ExpertForm, layout: str, options: dict[str, Any]) -> None:
        up, down = (self._stored(stack, interleave) for stack, interleave in ((form.up, layout), (form.down, "")))
        dense, chosen = self._dense(node, form, form.weights)
        scores = self._insert(
            node, "Where", [chosen, self._insert(node, "Log", [dense]), self._number(dense, NOT_CHOSEN)]
        )
        inputs = [form.hidden, scores, up[0], up[1], down[0], down[1]]
        sums = self._insert(node, "ReduceSum", [dense, self._ints([1])], keepdims=1)
        out = self._insert(node, "MoE", inputs, domain=DOMAIN, normalize_routing_weights=1, **options)
        self._finish(node, form, self._insert(node, "Mul", [out, sums], like=form.out))

    def _quantized(
        self, node: ir.Node, form: ExpertForm, layout: str, options: dict[str, Any], stacks: list["_Quantized"]
    ) -> None:
        if len({stack.bits for stack in stacks}) != 1:
            return
        size = stacks[0].bits
        block = min((stack.block for stack in stacks if stack.block is not None), default=None)  # one for both products
        if any(stack.width % (block or 1) for stack in stacks):
            return
        if size == 8 and block is not None and not self.int8_activations:
            return  # rounds activations whatever is asked
        packed = []
        for stack, interleave in zip(stacks, (layout, ""), strict=True):
            packed += [*stack.packed(self.editor, interleave, block), self._bias(stack.stack, interleave)]
        weights = form.weights
        if weights.dtype != form.hidden.dtype:
            assert form.hidden.dtype is not None
            weights = self._insert(
                node, "Cast", [weights], to=int(form.hidden.dtype), like=ir.Value(type=form.hidden.type)
            )
        dense, chosen = self._dense(node, form, weights)
        scores = self._insert(node, "Where", [chosen, self._number(dense, 1.0), self._number(dense, NOT_CHOSEN)])
        level = INT8_ACTIVATIONS if self.int8_activations else FULL_ACTIVATIONS
        options = options | {"expert_weight_bits": size, "normalize_routing_weights": 0, "weights_prepacked": 0}
        options |= {} if block is None else {"block_size": block}
        options |= {"accuracy_level": level} if block is not None and size == 4 else {}
        inputs = [form.hidden, scores, *packed, *NOT_GIVEN, dense]
        self._finish(node, form, self._insert(node, "QMoE", inputs, domain=DOMAIN, like=form.out, **options))

    def _finish(self, loop: ir.Node, form: ExpertForm, new: ir.Value) -> None:
        """Let `new` be the result. The Loop is then unused, and its body must read nothing, or its weights stay."""
        self.editor.replace(form.out, new)
        for inner in loop.attributes["body"].as_graph():
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)

    def _dense(self, node: ir.Node, form: ExpertForm, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The router's weights [tokens, experts], 0 for the others; and which are not 0."""
        assert form.down.weight.shape is not None
        experts = int(form.down.weight.shape[0])  # type: ignore[arg-type]  # a number
        tokens = self._insert(node, "Shape", [form.hidden], start=0, end=1)
        shape = self._insert(node, "Concat", [tokens, self._ints([experts])], axis=0)
        assert weights.dtype is not None
        zero = ir.tensor(np.zeros(1, weights.dtype.numpy()))
        zeros = self._insert(node, "ConstantOfShape", [shape], value=zero)
        zeros.type = weights.type
        like = described(weights.dtype, ir.Shape([None, experts]))
        options = {"axis": 1, "reduction": "add"}  # an expert may be chosen twice
        dense = self._insert(node, "ScatterElements", [zeros, form.indices, weights], like=like, **options)
        return dense, self._insert(node, "Greater", [dense, self._number(dense, 0.0)])

    def _stored(self, stack: Stack, interleave: str) -> tuple[ir.Value, ir.Value | None]:
        """The weight [experts, outputs, inputs] and the bias, gate and up interleaved if it is the first product's."""
        tensor = stack.weight.const_value
        assert tensor is not None
        experts, *sizes = tensor.shape.numpy()
        rows, width = sizes[::-1] if stack.transposed else sizes
        if not stack.transposed and interleave in ("", "interleaved"):
            return stack.weight, self._bias(stack, interleave)
        name = f"{stack.weight.name}.by_expert"
        lazy = ir.LazyTensor(
            lambda: ir.tensor(_ordered(_by_rows(tensor.numpy(), stack), interleave), name=name),
            dtype=tensor.dtype,
            shape=ir.Shape([experts, rows, width]),
            name=name,
        )
        return self.editor.initializer(lazy), self._bias(stack, interleave)

    def _bias(self, stack: Stack, interleave: str) -> ir.Value | None:
        if stack.bias is None or interleave in ("", "interleaved"):
            return stack.bias
        assert stack.bias.const_value is not None
        return self.editor.constant(
            f"{stack.bias.name}.by_expert", _ordered(stack.bias.const_value.numpy(), interleave)
        )

    def _insert(
        self, node: ir.Node, op: str, inputs: list[ir.Value | None], like: ir.Value | None = None, **attributes: Any
    ) -> ir.Value:
        out = self.editor.insert(node, op, inputs, like=[like], **attributes).outputs[0]
        if out.type is None and op in ("Log", "Where", "Max") and inputs[-1] is not None:
            out.type = inputs[-1].type
        return out

    def _ints(self, numbers: list[int]) -> ir.Value:
        return self.editor.constant(f"lowered.ints.{'_'.join(map(str, numbers))}", np.array(numbers, np.int64))

    def _number(self, like: ir.Value, number: float) -> ir.Value:
        assert like.dtype is not None
        kind = like.dtype.numpy()
        return self.editor.constant(f"lowered.{kind}.{number:g}", np.array(number, kind))


class _Quantized:
    """A stack whose weights are dequantized. block: weights along the inputs that share a scale; None for all."""

    def __init__(self, stack: Stack, weight: ir.Value, scale: ir.Value, block: int | None) -> None:
        assert weight.const_value is not None
        assert scale.const_value is not None
        self.stack, self.weight, self.scale, self.block = stack, weight, scale, block
        self.numbers, self.factors = weight.const_value, scale.const_value
        self.bits = BITS[weight.const_value.dtype]

    @classmethod
    def of(cls, stack: Stack) -> "_Quantized | None":
        """None for weights that are not quantized, or in a form without a kernel."""
        node = producer_if(stack.weight, "DequantizeLinear")
        if node is None or len(node.inputs) != 2:
            return None
        weight, scale = operand(node, 0), operand(node, 1)
        if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
            return None
        axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
        shape = weight.const_value.shape.numpy()
        along = 1 if stack.transposed else 2
        if axis % 3 != along or not block or weight.const_value.dtype not in BITS:
            return None
        whole = block == shape[along]
        return cls(stack, weight, scale, None if whole and BITS[weight.const_value.dtype] == 8 else block)

    @property
    def width(self) -> int:
        """The inputs of a product."""
        return int(self.numbers.shape.numpy()[1 if self.stack.transposed else 2])

    def packed(self, editor: Editor, interleave: str, block: int | None) -> list[ir.Value]:
        """Numbers and scales as the kernel reads them; block: the kernel's, which divides the weight's own."""
        experts, *sizes = self.numbers.shape.numpy()
        rows, width = sizes[::-1] if self.stack.transposed else sizes
        name = f"{self.weight.name}.packed"

        def numbers() -> ir.TensorProtocol:
            ordered = _ordered(_by_rows(self.numbers.numpy(), self.stack), interleave).reshape(experts * rows, width)
            return ir.tensor(pack(ordered, block or width, self.bits).reshape(experts, rows, -1), name=name)

        shape = ir.Shape([experts, rows, width * self.bits // 8])
        lazy = ir.LazyTensor(numbers, dtype=ir.DataType.UINT8, shape=shape, name=name)
        scales = _ordered(_by_rows(self.factors.numpy(), self.stack), interleave)
        scales = scales[:, :, 0] if block is None else np.repeat(scales, width // block // scales.shape[2], axis=2)
        return [editor.initializer(lazy), editor.constant(f"{self.scale.name}.packed", np.ascontiguousarray(scales))]


def _by_rows(array: npt.NDArray[Any], stack: Stack) -> npt.NDArray[Any]:
    """[experts, outputs, inputs]."""
    return array.swapaxes(1, 2) if stack.transposed else array


def _ordered(array: npt.NDArray[Any], layout: str) -> npt.NDArray[Any]:
    """[experts, outputs, ...] with the rows of gate and up one after the other; layout: as they are, "" for no gate."""
    if layout != "halves":
        return np.ascontiguousarray(array)
    experts, rows, *rest = array.shape
    halves = array.reshape(experts, 2, rows // 2, *rest)
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _gate(form: ExpertForm) -> tuple[str, dict[str, Any]] | None:
    """Where gate and up are in the first product, and the options of the kernels' swiglu: limited gate times sigmoid of
    alpha times it, times limited up plus beta; None for another activation."""
    product = producer_if(form.activated, "Mul")
    if product is None:
        return None
    for left, right in (product.inputs, product.inputs[::-1]):
        silu = _silu(left)
        if silu is None:
            continue
        shifted, beta = _constant_operand(right, "Add", 0.0)
        (gate, top), (up, limit) = _limit(silu[0]), _limit(shifted)
        layout = _layout(form.product, gate, up)
        if layout is None or top != limit:
            return None
        options = {"activation_alpha": silu[1], "activation_beta": beta}
        return layout, options if limit is None else options | {"swiglu_limit": limit}
    return None


def _silu(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """x and alpha of x * sigmoid(alpha * x)."""
    node = producer_if(value, "Mul")
    for x, gate in () if node is None else (node.inputs, node.inputs[::-1]):
        sigmoid = producer_if(gate, "Sigmoid")
        if sigmoid is None or x is None:
            continue
        scaled, alpha = _constant_operand(sigmoid.inputs[0], "Mul", 1.0)
        if scaled is x:
            return x, alpha
    return None


def _constant_operand(value: ir.Value | None, op: str, default: float) -> tuple[ir.Value | None, float]:
    """What an operator with a number is applied to, and the number; the value itself where there is none."""
    node = producer_if(value, op)
    for x, number in () if node is None else (node.inputs, node.inputs[::-1]):
        if number is not None and number.const_value is not None and number.const_value.size == 1:
            return x, float(number.const_value.numpy().reshape(-1)[0])
    return value, default


def _limit(value: ir.Value | None) -> tuple[ir.Value | None, float | None]:
    """What a Clip is applied to, and its upper end."""
    node = producer_if(value, "Clip")
    top = operand(node, 2) if node is not None else None
    if node is None or top is None or top.const_value is None:
        return value, None
    return node.inputs[0], float(top.const_value.numpy())


def _layout(product: ir.Value, gate: ir.Value | None, up: ir.Value | None) -> str | None:
    """How gate and up are taken from the first product."""
    split = producer_if(gate, "Split")
    if split is not None and split.inputs[0] is product and list(split.outputs) == [gate, up]:
        return "halves"
    picks = [producer_if(value, "Gather") for value in (gate, up)]
    pairs = [producer_if(pick.inputs[0], "Reshape") for pick in picks if pick is not None]
    first = pairs[0] if len(pairs) == 2 and pairs[0] is pairs[1] else None
    if first is not None and first.inputs[0] is product:
        numbers = [pick.inputs[1].const_value for pick in picks if pick is not None and pick.inputs[1] is not None]
        if [int(n.numpy()) for n in numbers if n is not None] == [0, 1]:
            return "interleaved"
    return None
