"""Lower the portable graph for ONNX Runtime: fewer operators, of its own domain, that do the same work.

Only engine/ holds a lowered graph; the portable one stays as it is. Whatever has no counterpart stays a standard node.
"""

from collections.abc import Callable

import onnx_ir as ir

from pipeline.editor import Editor, attribute, made_by
from pipeline.graph import heads
from pipeline.lower_attention import DOMAIN, AttentionLowering
from pipeline.lower_linear import lower_linear, lower_table


def lower(model: ir.Model, *, int8_activations: bool, attention: bool = True) -> None:
    """Rewrite a graph of the contract in place. `int8_activations`: products with quantized weights round their input
    to 8 bits too; `attention`: whether to take GroupQueryAttention."""
    editor = Editor(model)
    last = set(heads(model.graph))
    rewrites: list[tuple[str, Callable[[ir.Node], None]]] = [
        ("RMSNormalization", lambda node: _skip_norm(editor, node)),
        ("Mul", lambda node: _silu(editor, node)),
        ("MatMul", lambda n: lower_linear(editor, n, int8_activations=int8_activations, twice=n in last)),
        ("MatMul", lambda node: _tied_head(editor, node)),
        ("DequantizeLinear", lambda node: lower_table(editor, node)),
    ]
    if attention:
        rewrites.insert(0, ("Attention", AttentionLowering(editor).lower))
    for op, rewrite in rewrites:
        for node in editor.nodes(op):
            rewrite(node)
    model.opset_imports[DOMAIN] = 1
    editor.finish()


def _skip_norm(editor: Editor, node: ir.Node) -> None:
    """Add and RMSNormalization of the sum -> SkipSimplifiedLayerNormalization, which gives the sum as well."""
    add = made_by(node.inputs[0], "Add")
    if add is None or attribute(node, "axis", -1) != -1:
        return
    one, other = add.inputs
    if one is None or other is None or one.shape is None or len(one.shape) != 3 or one.shape != other.shape:
        return
    total = add.outputs[0]
    fused = editor.insert(
        node,
        "SkipSimplifiedLayerNormalization",
        [one, other, node.inputs[1]],
        domain=DOMAIN,
        like=(node.outputs[0], None, None, total),
        epsilon=attribute(node, "epsilon", 1e-5),
    )
    editor.replace(node.outputs[0], fused.outputs[0])
    editor.replace(total, fused.outputs[3])


def _silu(editor: Editor, node: ir.Node) -> None:
    """x * Sigmoid(x) -> QuickGelu with alpha 1."""
    for value, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = made_by(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is value:
            fused = editor.insert(node, "QuickGelu", [value], domain=DOMAIN, like=node.outputs, alpha=1.0)
            editor.replace(node.outputs[0], fused.outputs[0])
            return


def _tied_head(editor: Editor, node: ir.Node) -> None:
    """Transpose of a weight and MatMul -> FusedMatMul: loading would store the transposed embedding a second time."""
    transpose = made_by(node.inputs[1], "Transpose")
    if transpose is None or transpose.inputs[0] is None or transpose.inputs[0].const_value is None:
        return
    inputs = [node.inputs[0], transpose.inputs[0]]
    fused = editor.insert(node, "FusedMatMul", inputs, domain=DOMAIN, like=node.outputs, transB=1)
    editor.replace(node.outputs[0], fused.outputs[0])
