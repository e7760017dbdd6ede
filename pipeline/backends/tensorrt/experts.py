"""Compute all blocks of a mixture's tokens at once instead of in a Loop.

In a network with loops TensorRT has no fused attention, and it dequantizes the weights of all experts in each step.
The price is memory in a long prompt: its blocks hold the weights of their experts, of one mixture at a time; with
128 experts and a prompt of 512 tokens one and a half times its weights.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import Editor, attribute, described
from pipeline.graph.expert_form import ExpertForm


def unroll_experts(editor: Editor) -> None:
    """Replace the Loop of each mixture."""
    for loop in editor.nodes("Loop"):
        if ExpertForm.of(loop) is not None:
            _Unrolled(editor, loop).write()


class _Unrolled:
    """The nodes of a Loop's body, with one more axis in front: the blocks."""

    def __init__(self, editor: Editor, loop: ir.Node) -> None:
        self.editor, self.loop = editor, loop
        self.body = loop.attributes["body"].as_graph()
        self.step = self.body.inputs[0]
        self.made: dict[ir.Value, ir.Value] = {}  # a body's value -> that of all blocks

    def write(self) -> None:
        more, out = self.body.outputs
        for node in self.body:
            if node.outputs[0] is more or (node.op_type == "Add" and self.step in node.inputs):
                continue  # the condition and what it counts
            self._write(node)
        self.editor.replace(self.loop.outputs[0], self.made[out])
        for inner in self.body:
            for index in range(len(inner.inputs)):
                inner.replace_input_with(index, None)
        self.editor.graph.remove(self.loop, safe=True)

    def _write(self, node: ir.Node) -> None:
        given = [value and self.made.get(value, value) for value in node.inputs]
        kind = node.op_type
        if kind == "Gather" and node.inputs[1] is self.step:
            self.made[node.outputs[0]] = _known(given[0])  # of each step: the whole table
        elif kind == "Gemm":
            self._product(node, given)
        else:
            options = {name: attr.value for name, attr in node.attributes.items()}
            if kind == "Gather" and options.get("axis"):
                options["axis"] += 1
            if kind == "Reshape":  # [rows, pairs, 2]
                given[1] = self.editor.constant("experts.vector_0_0_-1_2", np.array([0, 0, -1, 2], np.int64))
            shapes = [None if out.shape is None else [None, *out.shape] for out in node.outputs]
            like = [described(out.dtype, shape) for out, shape in zip(node.outputs, shapes, strict=True)]
            new = self.editor.insert(self.loop, kind, given, like=like, **options)
            self.made |= dict(zip(node.outputs, new.outputs, strict=True))

    def _product(self, node: ir.Node, given: list[Any]) -> None:
        x, weight, *bias = given
        out = node.outputs[0]
        shape = [None, *(out.shape or [None, None])]
        if attribute(node, "transB", 0):
            weight = self._put("Transpose", [weight], None, out.dtype, perm=[0, 2, 1])
        y = self._put("MatMul", [x, weight], shape, out.dtype)
        if bias:
            axis = self.editor.constant("experts.vector_1", np.array([1], np.int64))
            y = self._put("Add", [y, self._put("Unsqueeze", [bias[0], axis], None, out.dtype)], shape, out.dtype)
        self.made[out] = y

    def _put(self, op: str, inputs: list[Any], shape: Any, dtype: ir.DataType | None, **attributes: Any) -> ir.Value:
        return self.editor.insert(self.loop, op, inputs, like=[described(dtype, shape)], **attributes).outputs[0]


def _known(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
