"""Pack linear layers of one input in one module: query, key and value; gate and up. One product, then a Split.

[K, Nq], [K, Nk] and [K, Nv] become [K, Nq + Nk + Nv], joined when they are written, so that no copy is held.
Where nothing stands between projection and heads (a norm of each head does in Qwen3), the Split comes behind the
heads' Reshape and Transpose, which are then one each as well: 5 nodes fewer a layer.
Gate and up as one make a decode step of SmolLM2-135M 2 % quicker in fp32, 5 % in int8 and int4.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import add_initializer
from pipeline.graph.naming import MODULE

ATTENTION, FEED_FORWARD = "qkv_proj", "gate_up_proj"  # as the models call them that are packed by themselves
SIZES = {ATTENTION: 3, FEED_FORWARD: 2}


def pack_projections(model: ir.Model) -> None:
    """Pack an Attention's three linear layers of one input, and two of any other module; all or none have a bias."""
    graph = model.graph
    attentions = {node.metadata_props.get(MODULE) for node in graph if node.op_type == "Attention"}
    groups: dict[tuple[str, ir.Value], list[ir.Node]] = {}
    for node in graph:
        parent = node.metadata_props.get(MODULE, "").rpartition(".")[0]
        if node.op_type == "MatMul":
            source, weight = node.inputs
            if source is not None and _is_weight(weight, rank=2):
                groups.setdefault((parent, source), []).append(node)
    for (parent, source), products in groups.items():
        adds = [add for add in (_reader(node, "Add") for node in products) if add and _weights([add], rank=1)]
        name = ATTENTION if parent in attentions else FEED_FORWARD
        if len(products) == SIZES[name] and len(adds) in (0, len(products)):
            _pack(graph, f"{parent}.{name}", source, products, adds)


def _is_weight(value: ir.Value | None, rank: int) -> bool:
    """Whether this is a constant of that rank with a single reader."""
    if value is None or value.const_value is None or not value.is_initializer():
        return False
    return len(value.uses()) == 1 and value.const_value.shape.rank() == rank


def _weights(nodes: Sequence[ir.Node], rank: int) -> list[ir.Value]:
    return [value for node in nodes for value in node.inputs if value is not None and _is_weight(value, rank)]


def _reader(node: ir.Node, op: str) -> ir.Node | None:
    """The only reader of a node's output, when it is this operator."""
    readers = node.outputs[0].consumers()
    return readers[0] if len(readers) == 1 and readers[0].op_type == op else None


def _pack(graph: ir.Graph, name: str, source: ir.Value, products: Sequence[ir.Node], adds: Sequence[ir.Node]) -> None:
    nodes: list[ir.Node] = []

    def append(op: str, *inputs: ir.Value, **options: Any) -> ir.Value:
        nodes.append(ir.node(op, inputs, **options, metadata_props={MODULE: name}))
        return nodes[-1].outputs[0]

    def constant(part: str, values: Sequence[int]) -> ir.Value:
        return add_initializer(graph, ir.tensor(np.array(values, np.int64), name=f"{name}.{part}"))

    weights, biases = _weights(products, rank=2), _weights(adds, rank=1)
    out = append("MatMul", source, _joined(graph, f"{name}.weight", weights))
    if biases:
        out = append("Add", out, _joined(graph, f"{name}.bias", biases))
    old, ends = [*adds, *products], adds or products
    sizes, axis = [_dims(value)[-1] for value in weights], -1
    views = [view for view in (_reader(node, "Reshape") for node in ends) if view]
    turns = [turn for turn in (_reader(view, "Transpose") for view in views) if turn]
    if len(turns) == len(ends) == SIZES[ATTENTION] and _are_heads(source, views, turns):
        sizes, axis = [_dims(view.outputs[0])[2] for view in views], 1
        heads = [0, 0, sum(sizes), _dims(views[0].outputs[0])[3]]  # 0 keeps batch and sequence
        out = append("Reshape", out, constant("heads", heads))
        out = append("Transpose", out, attributes={"perm": [0, 2, 1, 3]})
        old, ends = [*turns, *views, *old], turns
    for node in nodes:
        node.outputs[0].name = f"{name}.{node.op_type}"
    append("Split", out, constant("sizes", sizes), attributes={"axis": axis}, num_outputs=len(sizes))
    before = [node.outputs[0] for node in ends]
    ir.convenience.replace_nodes_and_values(graph, products[0], old, nodes, before, nodes[-1].outputs)
    for value in [*weights, *biases]:
        graph.initializers.pop(str(value.name))


def _are_heads(source: ir.Value, views: Sequence[ir.Node], turns: Sequence[ir.Node]) -> bool:
    """Whether [batch, sequence, N] becomes [batch, heads, sequence, head_dim] in each, with one head_dim for all."""
    shapes = [_dims(view.outputs[0]) for view in views]
    if any(len(shape) != 4 or shape[:2] != _dims(source)[:2] or shape[3] != shapes[0][3] for shape in shapes):
        return False
    return all(list(turn.attributes["perm"].as_ints()) == [0, 2, 1, 3] for turn in turns)


def _joined(graph: ir.Graph, name: str, parts: Sequence[ir.Value]) -> ir.Value:
    """A new initializer: `parts` side by side on their last axis."""
    tensors = [value.const_value for value in parts if value.const_value is not None]
    shape = ir.Shape([*_dims(parts[0])[:-1], sum(_dims(value)[-1] for value in parts)])
    return add_initializer(graph, ir.LazyTensor(partial(_join, tensors), tensors[0].dtype, shape, name=name))


def _join(tensors: Sequence[ir.TensorProtocol]) -> ir.TensorProtocol:
    return ir.tensor(np.concatenate([tensor.numpy() for tensor in tensors], axis=-1))


def _dims(value: ir.Value) -> list[Any]:
    """Its shape: numbers and symbols; empty when it is not known."""
    return [] if value.shape is None else list(value.shape)
