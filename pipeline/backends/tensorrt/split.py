"""Splits of projections, in the form that TensorRT supports and builds smallest."""

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import SWAP, Editor, attribute, dimension, producer_if


def split_last_axis(editor: Editor) -> None:
    """Rewrite the splits of a graph in place: along the last axis."""
    for node in editor.nodes("Split"):
        _heads(editor, node)


def _heads(editor: Editor, node: ir.Node) -> None:
    """Reshape into heads, Transpose, Split of heads -> Split, then Reshape and Transpose of each part.

    This makes the plan of SmolLM2-135M in fp16 with two profiles 4.7 MB smaller: 1.057 times its weights, not 1.074.
    """
    transpose = producer_if(node.inputs[0], "Transpose")
    if transpose is None or attribute(node, "axis", 0) != 1 or list(attribute(transpose, "perm", [])) != SWAP:
        return
    reshape = producer_if(transpose.inputs[0], "Reshape")
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
