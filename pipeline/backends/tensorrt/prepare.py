"""Rewrite the portable graph into forms that TensorRT's parser and kernels support; in memory, never on disk.

The results are standard operators again:

* Attention with lengths, where TensorRT's attention takes none (10.15, 10.16) -> with a boolean mask, made once.
* Attention with a softcap, or with values of another size than keys, which the parser refuses, with sinks, which it
  would drop, with a mask that is added, or with a head size without kernels -> MatMul, Tanh, Softmax.
* Splits of projections -> along the last axis (pipeline.backends.tensorrt.split).
* Embedding of 8 bits -> packed into int32, as TensorRT cannot gather rows of int8.

All other Attention stays. Attributes and inputs that the parser would drop silently are refused.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.backends.tensorrt.experts import unroll_experts
from pipeline.backends.tensorrt.split import split_last_axis
from pipeline.core.errors import Problem, UserError
from pipeline.graph.attention import KEY, LENGTHS, MASK, QUERY, VALUE, AttentionForm, Sink
from pipeline.graph.editor import Editor, dimension, producer_if

HEAD_STEP = 8  # no kernel with lengths or a mask takes a head size that is not a multiple of it


def prepare(model: ir.Model, *, lengths: bool) -> None:
    """Rewrite a portable graph in place. lengths: whether TensorRT's attention takes them.

    Raises UserError with a problem for each attribute or input of an Attention that would be lost.
    """
    editor = Editor(model)
    lost = [Problem(f"{node.name}: {what}", "engine.kind", fix) for node, what, fix in _unkept(editor)]
    if lost:
        raise UserError(lost)
    rewrite, recurrent = _Attentions(editor), bool(editor.nodes("Scan"))
    for node in editor.nodes("Attention"):
        query, value = (dimension(node.inputs[i], 3) for i in (QUERY, VALUE))
        odd = query % HEAD_STEP or query != value
        form = AttentionForm.of(node)
        if recurrent or form.softcap or odd or Sink.of(node) is not None or _is_added(form.mask):
            rewrite.decompose(node)
            continue
        rewrite.scale(node)
        if not lengths:
            rewrite.mask(node)
    unroll_experts(editor)
    split_last_axis(editor)
    for node in editor.nodes("DequantizeLinear"):
        _gathered_rows(editor, node)
        _tied_head(editor, node)
    editor.finish()


def _unkept(editor: Editor) -> Iterator[tuple[ir.Node, str, str]]:
    for node in editor.nodes("Attention"):
        form = AttentionForm.of(node)
        for name, value in form.other_attributes.items():
            instead = "state it as a mask, as the wrapper does" if "window" in name else "export without it"
            yield node, f"TensorRT's parser drops {name}={value}", f"{instead}, or engine=onnxruntime_cpu"
        for index, extra in form.other_inputs.items():
            yield node, f"input {index}, {extra.name}, has no place in a static cache", "export without it"
        if not form.is_portable:
            what = "it must be causal with lengths, or have a mask alone"
            yield node, what, "export with pipeline.wrap, whose attention has one of these forms"


class _Attentions:
    """Rewrites the Attention nodes of one graph; they share their masks."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.masks: dict[ir.Value, ir.Value] = {}

    def mask(self, node: ir.Node) -> None:
        """Causal with lengths -> with a mask alone; an Attention with a mask stays."""
        if AttentionForm.of(node).mask is not None:
            return
        mask = self._mask(node)
        node.replace_input_with(LENGTHS, None)
        node.replace_input_with(MASK, mask)
        node.attributes.pop("is_causal", None)

    def scale(self, node: ir.Node) -> None:
        """Scale the queries only: the parser would multiply queries and the whole cache of keys by the square root of
        the scale in every step. A factor of 1 is left, which pipeline.backends.tensorrt.network removes."""
        query = node.inputs[QUERY]
        assert query is not None
        assert query.dtype is not None
        factor = AttentionForm.of(node).scale(dimension(query, 3))
        number = self.editor.constant(f"attention.{query.dtype}.{factor:g}", np.array(factor, query.dtype.numpy()))
        scaled = self.editor.insert(node, "Mul", [query, number], like=(query,))
        node.replace_input_with(QUERY, scaled.outputs[0])
        node.attributes["scale"] = ir.AttrFloat32("scale", 1.0)

    def decompose(self, node: ir.Node) -> None:
        """Attention -> products and Softmax; the query heads that share a key head become a dimension of their own."""
        query, keys, values = node.inputs[:3]
        assert query is not None
        assert keys is not None
        assert values is not None
        assert query.dtype is not None
        heads, shared = dimension(query, 1), dimension(keys, 1)
        kind = query.dtype.numpy()

        def insert(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
            return self.editor.insert(node, op, inputs, **attributes).outputs[0]

        def number(value: float) -> ir.Value:
            return self.editor.constant(f"attention.{query.dtype}.{value:g}", np.array(value, kind))

        def shape(*sizes: int) -> ir.Value:
            return self.editor.constant(f"attention.shape.{'x'.join(map(str, sizes))}", np.array(sizes, np.int64))

        form, sink = AttentionForm.of(node), Sink.of(node)
        scale, softcap = form.scale(dimension(query, 3)), form.softcap
        scaled = insert("Mul", query, number(scale))
        grouped = insert("Reshape", scaled, shape(0, shared, heads // shared, -1, dimension(query, 3)))
        turned = insert("Unsqueeze", insert("Transpose", keys, perm=[0, 1, 3, 2]), shape(2))
        scores = insert("MatMul", grouped, turned)  # [batch, kv_heads, heads of each, sequence, cache_size]
        if softcap:
            scores = insert("Mul", insert("Tanh", insert("Div", scores, number(softcap))), number(softcap))
        mask = self._mask(node)
        if mask.shape is not None and mask.shape[1] == heads != 1:
            mask = insert("Reshape", mask, shape(0, shared, heads // shared, -1, dimension(keys, 2)))
        else:
            mask = insert("Unsqueeze", mask, shape(1))
        if _is_added(form.mask):
            scores = insert("Add", scores, insert("Cast", mask, to=query.dtype.value))
        else:
            scores = insert("Where", mask, scores, number(-np.inf))
        if sink is not None:
            own = insert("Reshape", sink.scores, shape(1, shared, heads // shared, 1, 1))
            first = insert("Slice", scores, shape(0), shape(1), shape(4))
            column = insert("Where", insert("Equal", first, first), own, own)  # of its size, without reading a shape
            scores = insert("Concat", scores, column, axis=-1)
        weights = insert("Softmax", scores, axis=-1)
        if sink is not None:
            weights = insert("Slice", weights, shape(0), shape(dimension(keys, 2)), shape(4))
        out = insert("MatMul", weights, insert("Unsqueeze", values, shape(2)))
        old = node.outputs[0] if sink is None else sink.out
        last = self.editor.insert(node, "Reshape", [out, shape(0, heads, -1, dimension(values, 3))], like=(old,))
        self.editor.replace(old, last.outputs[0])

    def _mask(self, node: ir.Node) -> ir.Value:
        """[batch, 1, sequence, cache_size]: the slots that each new token sees; the node's own mask where it has one.

        Slot j is seen by token i of a row when j <= length - sequence + i.
        """
        form = AttentionForm.of(node)
        if form.mask is not None:
            return form.mask
        length, query, keys = form.lengths, node.inputs[QUERY], node.inputs[KEY]
        assert length is not None
        assert query is not None
        if length not in self.masks:
            constant = self.editor.constant
            zero, one = constant("causal.zero", np.array(0, np.int64)), constant("causal.one", np.array(1, np.int64))

            def insert(op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
                new = self.editor.insert(node, op, inputs, **attributes)
                new.name = f"decoder.causal.{op}"
                return new.outputs[0]

            size = insert("Squeeze", insert("Shape", query, start=2, end=3))
            first = insert("Sub", length, size)
            rows = insert("Unsqueeze", first, constant("causal.of_row", np.array([1, 2, 3], np.int64)))
            steps = insert("Unsqueeze", insert("Range", zero, size, one), constant("causal.step", np.array([1])))
            last_seen = insert("Add", rows, steps)  # [batch, 1, sequence, 1]
            slots = constant("causal.slots", np.arange(dimension(keys, 2)))
            self.masks[length] = insert("LessOrEqual", slots, last_seen)
        return self.masks[length]


def _is_added(mask: ir.Value | None) -> bool:
    """Whether a mask is numbers that are added to the scores."""
    return mask is not None and mask.dtype not in (None, ir.DataType.BOOL)


def _gathered_rows(editor: Editor, node: ir.Node) -> None:
    """DequantizeLinear(Gather(int8), Gather(scale)) -> Gather of int32, each four numbers of 8 bits, then unpack.

    TensorRT accepts a constant of 8 bits only directly before DequantizeLinear, and would dequantize the whole table in
    each step: 113 MB of activations for SmolLM2-135M. Column j of the packed table holds columns j, j + H/4, ... of it.
    """
    rows, scales = producer_if(node.inputs[0], "Gather"), producer_if(node.inputs[1], "Gather")
    if rows is None or scales is None:
        return
    table, scale, ids = rows.inputs[0], scales.inputs[0], rows.inputs[1]
    width, blocks = dimension(table, 1), dimension(scale, 1)
    assert table is not None
    assert scale is not None
    if table.const_value is None or width % 4:
        what = f"{node.name}: TensorRT cannot gather {table.name}, rows of {width} numbers of 8 bits"
        raise UserError(Problem(what, "quantize.embedding", "quantize.embedding=none"))

    def insert(op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        return editor.insert(node, op, inputs, **attributes).outputs[0]

    base = editor.constant("packed.base", np.array(256, np.int32))
    middle = editor.constant("packed.middle", np.array(128, np.int32))
    rest = insert("Gather", _packed(editor, table), ids, axis=0)
    parts = []
    for _ in range(3):
        digit = insert("Mod", rest, base)
        rest = insert("Div", insert("Sub", rest, digit), base)
        parts.append(insert("Sub", digit, middle))
    numbers = insert("Concat", *parts, rest, axis=-1)
    assert scale.dtype is not None
    values, factors = insert("Cast", numbers, to=scale.dtype.value), scales.outputs[0]
    if blocks == 1:
        out = editor.insert(node, "Mul", [values, factors], like=(node.outputs[0],))
    else:
        last = editor.constant("packed.last", np.array([-1], np.int64))
        apart = editor.constant(f"packed.{width}.{blocks}", np.array([0, 0, blocks, width // blocks], np.int64))
        together = editor.constant(f"packed.{width}", np.array([0, 0, width], np.int64))
        product = insert("Mul", insert("Reshape", values, apart), insert("Unsqueeze", factors, last))
        out = editor.insert(node, "Reshape", [product, together], like=(node.outputs[0],))
    editor.replace(node.outputs[0], out.outputs[0])


def _packed(editor: Editor, table: ir.Value) -> ir.Value:
    """[V, H] int8 -> [V, H/4] int32: the last number in the high byte, the others plus 128 below it."""
    assert table.const_value is not None
    parts = np.split(table.const_value.numpy().astype(np.int32), 4, axis=1)
    packed = parts[3]
    for part in parts[2::-1]:
        packed = packed * 256 + part + 128
    return editor.constant(f"{table.name}.packed", packed)


def _tied_head(editor: Editor, node: ir.Node) -> None:
    """A table with a scale per row: the portable graph has one block per row, TensorRT takes one scale per channel."""
    table, scale = node.inputs[:2]
    if table is None or scale is None or scale.const_value is None or not _is_column(scale):
        return
    per_row = editor.constant(f"{scale.name}.per_row", np.ascontiguousarray(scale.const_value.numpy()[:, 0]))
    made = editor.insert(node, "DequantizeLinear", [table, per_row], like=(node.outputs[0],), axis=0)
    editor.replace(node.outputs[0], made.outputs[0])


def _is_column(scale: ir.Value) -> bool:
    return scale.shape is not None and len(scale.shape) == 2 and scale.shape[1] == 1
