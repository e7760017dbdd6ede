"""Lower the portable graph for ONNX Runtime: fewer operators, of its own domain, that do the same work.

Only engine/ holds a lowered graph; the portable one stays as it is. Operators without a fused kernel keep their
standard form.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from pipeline.backends.onnxruntime.attention import DOMAIN, AttentionLowering
from pipeline.backends.onnxruntime.experts import ExpertsLowering
from pipeline.backends.onnxruntime.linear import Activations, LinearLowering
from pipeline.backends.onnxruntime.recurrence import lower_recurrence
from pipeline.graph.attention import AttentionForm
from pipeline.graph.editor import Editor, attribute, logit_projections, producer_if


def lower(model: ir.Model, *, int8_activations: bool, cuda: bool = False, window_cache: bool = False) -> dict[str, int]:
    """Rewrite a graph of the contract in place; return the caches that hold a sliding window's tokens only, by input,
    and their windows.

    int8_activations: products with quantized weights round their input to 8 bits, the LM head's to 16. cuda: for that
    provider, which keeps the standard attention and whose products round nothing. window_cache: caches of layers with
    a sliding window get no more slots than it has.
    """
    editor = Editor(model)
    heads = set(logit_projections(model.graph))
    exact = Activations.native if cuda else Activations.exact
    of_layers, of_head = (Activations.int8, Activations.int16) if int8_activations else (exact, exact)
    linear = LinearLowering(editor)
    # looks for quantized weights, so it is made before they are lowered
    attention = AttentionLowering(editor, window_cache=window_cache)
    rewrites: list[tuple[str, Callable[[ir.Node], None]]] = [
        ("Attention", (lambda node: _lengths(editor, node)) if cuda else attention.lower),
        ("Loop", (lambda _: None) if cuda else ExpertsLowering(editor, int8_activations=int8_activations).lower),
        ("Scan", lambda node: lower_recurrence(editor, node)),
        ("RMSNormalization", lambda node: _skip_norm(editor, node)),
        ("Mul", lambda node: _silu(editor, node)),
        ("MatMul", lambda node: linear.lower(node, of_head if node in heads else of_layers)),
        ("MatMul", lambda node: _tied_head(editor, node)),
        ("DequantizeLinear", linear.lower_rows),  # of the tables that a MatMul above has packed
    ]
    for op, rewrite in rewrites:
        for node in editor.nodes(op):
            rewrite(node)
    model.opset_imports[DOMAIN] = 1
    editor.finish()
    return attention.window_caches


def _skip_norm(editor: Editor, node: ir.Node) -> None:
    """Add and RMSNormalization of the sum -> SkipSimplifiedLayerNormalization, which also outputs the sum."""
    add = producer_if(node.inputs[0], "Add")
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
        sigmoid = producer_if(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is value:
            fused = editor.insert(node, "QuickGelu", [value], domain=DOMAIN, like=node.outputs, alpha=1.0)
            editor.replace(node.outputs[0], fused.outputs[0])
            return


def _tied_head(editor: Editor, node: ir.Node) -> None:
    """Transpose of a weight and MatMul -> FusedMatMul: loading would store the transposed embedding a second time."""
    transpose = producer_if(node.inputs[1], "Transpose")
    if transpose is None or transpose.inputs[0] is None or transpose.inputs[0].const_value is None:
        return
    inputs = [node.inputs[0], transpose.inputs[0]]
    fused = editor.insert(node, "FusedMatMul", inputs, domain=DOMAIN, like=node.outputs, transB=1)
    editor.replace(node.outputs[0], fused.outputs[0])


def _lengths(editor: Editor, node: ir.Node) -> None:
    """Compute the sequence in an attention's lengths as a sum over the tokens, not from a shape: shapes are computed on
    the CPU, results of the CPU are copied to the GPU, and a graph with copies cannot be captured."""
    add = producer_if(AttentionForm.of(node).lengths, "Add")
    if add is None:
        return
    for index, value in enumerate(add.inputs):
        squeeze = producer_if(value, "Squeeze")
        if squeeze is None or producer_if(squeeze.inputs[0], "Shape") is None:
            continue
        tokens = editor.inputs["attention_mask"]
        same = editor.insert(add, "Equal", [tokens, tokens]).outputs[0]
        ones = editor.insert(add, "Cast", [same], to=int(ir.DataType.INT64)).outputs[0]
        axis = editor.constant("lowered.one", np.array([1], np.int64))
        add.replace_input_with(index, editor.insert(add, "ReduceSum", [ones, axis], keepdims=0).outputs[0])
