"""Pack linear layers of one input in one module: query, key and value; gate and up. One product, then a Split.

[K, Nq], [K, Nk] and [K, Nv] become [K, Nq + Nk + Nv], joined when they are written, so that no copy is held.
If nothing stands between a projection and its heads (Qwen3 has a norm there), the Split comes after the heads' Reshape
and Transpose, which are then one each as well: 5 nodes fewer per layer.
Packing gate and up makes a decode step of SmolLM2-135M 2 % faster in fp32, 5 % in int8 and int4.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import SWAP, Editor, attribute
from pipeline.graph.naming import MODULE

ATTENTION, FEED_FORWARD = "qkv_proj", "gate_up_proj"  # names in models whose authors packed them
SIZES = {ATTENTION: 3, FEED_FORWARD: 2}


def pack_projections(model: ir.Model) -> None:
    """Pack an Attention's three linear layers of one input, and two of any other module; all or none have a bias."""
    editor = Editor(model)
    attentions = {node.metadata_props.get(MODULE) for node in editor.nodes("Attention")}
    groups: dict[tuple[str, ir.Value], list[ir.Node]] = {}
    for node in editor.nodes("MatMul"):
        parent = node.metadata_props.get(MODULE, "").rpartition(".")[0]
        source, weight = node.inputs
        if source is not None and _is_weight(weight, rank=2):
            groups.setdefault((parent, source), []).append(node)
    for (parent, source), products in groups.items():
        adds = [add for add in (_only_reader(node, "Add") for node in products) if add and _weights([add], rank=1)]
        name = ATTENTION if parent in attentions else FEED_FORWARD
        if len(products) == SIZES[name] and len(adds) in (0, len(products)):
            _pack(editor, f"{parent}.{name}", source, products, adds)


def _is_weight(value: ir.Value | None, rank: int) -> bool:
    """Whether this is a constant of that rank with a single reader."""
    if value is None or value.const_value is None or not value.is_initializer():
        return False
    return len(value.uses()) == 1 and value.const_value.shape.rank() == rank


def _weights(nodes: Sequence[ir.Node], rank: int) -> list[ir.Value]:
    return [value for node in nodes for value in node.inputs if value is not None and _is_weight(value, rank)]


def _only_reader(node: ir.Node, op: str) -> ir.Node | None:
    """The only reader of a node's output, if it is this operator."""
    readers = node.outputs[0].consumers()
    return readers[0] if len(readers) == 1 and readers[0].op_type == op else None


def _pack(editor: Editor, name: str, source: ir.Value, products: Sequence[ir.Node], adds: Sequence[ir.Node]) -> None:
    def insert(op: str, *inputs: ir.Value, **options: Any) -> ir.Value:
        node = editor.insert(products[0], op, inputs, module=name, **options)
        if "replaces" not in options:
            node.outputs[0].name = node.name
        return node.outputs[0]

    def constant(part: str, values: Sequence[int]) -> ir.Value:
        return editor.constant(f"{name}.{part}", np.array(values, np.int64))

    weights, biases = _weights(products, rank=2), _weights(adds, rank=1)
    out = insert("MatMul", source, _joined(editor, f"{name}.weight", weights))
    if biases:
        out = insert("Add", out, _joined(editor, f"{name}.bias", biases))
    old, ends = [*adds, *products], adds or products
    sizes, axis = [_dims(value)[-1] for value in weights], -1
    views = [view for view in (_only_reader(node, "Reshape") for node in ends) if view]
    swaps = [swap for swap in (_only_reader(view, "Transpose") for view in views) if swap]
    if len(swaps) == len(ends) == SIZES[ATTENTION] and _are_heads(source, views, swaps):
        sizes, axis = [_dims(view.outputs[0])[2] for view in views], 1
        heads = [0, 0, sum(sizes), _dims(views[0].outputs[0])[3]]  # 0 keeps batch and sequence
        out = insert("Reshape", out, constant("heads", heads))
        out = insert("Transpose", out, perm=SWAP)
        old, ends = [*swaps, *views, *old], swaps
    insert("Split", out, constant("sizes", sizes), axis=axis, replaces=[node.outputs[0] for node in ends])
    editor.remove(old)


def _are_heads(source: ir.Value, views: Sequence[ir.Node], swaps: Sequence[ir.Node]) -> bool:
    """Whether [batch, sequence, N] becomes [batch, heads, sequence, head_dim] in each, with one head_dim for all."""
    shapes = [_dims(view.outputs[0]) for view in views]
    if any(len(shape) != 4 or shape[:2] != _dims(source)[:2] or shape[3] != shapes[0][3] for shape in shapes):
        return False
    return all(list(attribute(swap, "perm", [])) == SWAP for swap in swaps)


def _joined(editor: Editor, name: str, parts: Sequence[ir.Value]) -> ir.Value:
    """A new initializer: `parts` side by side on their last axis."""
    tensors = [value.const_value for value in parts if value.const_value is not None]
    shape = ir.Shape([*_dims(parts[0])[:-1], sum(_dims(value)[-1] for value in parts)])
    return editor.initializer(ir.LazyTensor(partial(_join, tensors), tensors[0].dtype, shape, name=name))


def _join(tensors: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis=-1))


def _dims(value: ir.Value) -> list[Any]:
    """Its shape: numbers and symbols; empty when it is not known."""
    return [] if value.shape is None else list(value.shape)
