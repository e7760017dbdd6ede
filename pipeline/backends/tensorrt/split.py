"""Splits of projections, in the form that TensorRT supports and builds smallest."""

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import SWAP, Editor, attribute, dimension, made_by


def split_last_axis(editor: Editor) -> None:
    """Rewrite the splits of a graph in place: along the last axis, and without sequences."""
    for node in editor.nodes("SplitToSequence"):
        _sequence(editor, node)
    for node in editor.nodes("Split"):
        _heads(editor, node)


def _sequence(editor: Editor, node: ir.Node) -> None:
    """SplitToSequence into equal parts and a SequenceAt for each -> Split: TensorRT lacks sequences (GPT-2)."""
    value, part = node.inputs[:2]
    readers = node.outputs[0].consumers()
    if value is None or part is None or part.const_value is None or part.const_value.size != 1:
        return
    axis = attribute(node, "axis", 0)
    width, size = dimension(value, axis), int(part.const_value.numpy().item())
    chosen = [reader.inputs[1] for reader in readers if reader.op_type == "SequenceAt"]
    indices = [index.const_value for index in chosen if index is not None and index.const_value is not None]
    if width % size or len(indices) != len(readers):
        return
    split = editor.insert(node, "Split", [value], like=(None,) * (width // size), axis=axis, num_outputs=width // size)
    for reader, index in zip(readers, indices, strict=True):
        out, old = split.outputs[int(index.numpy().item())], reader.outputs[0]
        out.shape, out.type = old.shape, old.type
        editor.replace(old, out)


def _heads(editor: Editor, node: ir.Node) -> None:
    """Reshape into heads, Transpose, Split of heads -> Split, then Reshape and Transpose of each part.

    This makes the plan of SmolLM2-135M in fp16 with two profiles 4.7 MB smaller: 1.057 times its weights, not 1.074.
    """
    transpose = made_by(node.inputs[0], "Transpose")
    if transpose is None or attribute(node, "axis", 0) != 1 or list(attribute(transpose, "perm", [])) != SWAP:
        return
    reshape = made_by(transpose.inputs[0], "Reshape")
    if reshape is None:
        return
    shapes = [(dimension(out, 1), dimension(out, 3)) for out in node.outputs]
    sizes = editor.constant("split." + ".".join(str(h * d) for h, d in shapes), np.array([h * d for h, d in shapes]))
    parts = editor.insert(node, "Split", [reshape.inputs[0], sizes], like=(None,) * len(shapes), axis=-1)
    for out, part, (heads, width) in zip(node.outputs, parts.outputs, shapes, strict=True):
        apart = editor.constant(f"split.{heads}x{width}", np.array([0, 0, heads, width]))  # 0: as it is
        viewed = editor.insert(node, "Reshape", [part, apart])
        part.type = viewed.outputs[0].type = out.type
        turned = editor.insert(node, "Transpose", viewed.outputs, like=(out,), perm=SWAP)
        editor.replace(out, turned.outputs[0])
