"""An ONNX model as onnx_ir: load, save, and the passes that export and simplify share.

A saved model is two files: model.onnx, and model.onnx.data with every weight of 64 KiB and more.
"""

import ast
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from pipeline.layout import DATA, MODEL
from pipeline.names import module_name, numbered

MASK, LENGTHS = 3, 6  # inputs of Attention: attn_mask, nonpad_kv_seqlen
INLINE_BELOW = 65536  # bytes; smaller tensors stay in the graph, where constant folding reaches them
MODULE = "module"  # key of a node's metadata: the module of the model that it came from


def save(model: ir.Model, folder: Path) -> None:
    """Write `folder`/model.onnx and `folder`/model.onnx.data."""
    ir.save(model, folder / MODEL, external_data=DATA, size_threshold_bytes=INLINE_BELOW)


def load(folder: Path) -> ir.Model:
    """Load `folder`/model.onnx; the weights stay on disk, memory-mapped."""
    return ir.load(folder / MODEL)


def rename_axes(model: ir.Model, names: dict[str, str]) -> None:
    """Give symbolic dimensions other names, on every value of the graph."""
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in value.shape])


def _renamed(dim: int | ir.SymbolicDim, names: dict[str, str]) -> int | ir.SymbolicDim:
    if isinstance(dim, int):
        return dim
    return ir.SymbolicDim(names.get(str(dim.value)) if dim.value is not None else None)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]


def add_initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    """A constant of the graph, under the tensor's name."""
    value = ir.Value(
        name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def fold_weight_transposes(model: ir.Model) -> None:
    """Store a linear layer's weight as MatMul wants it, [in, out], instead of transposing it at run time.

    A weight with other readers, such as a tied embedding, keeps its bytes and its Transpose.
    """
    graph = model.graph
    for node in [n for n in graph if n.op_type == "Transpose"]:
        weight = node.inputs[0]
        if weight is None or weight.const_value is None or len(weight.uses()) != 1 or weight.is_graph_output():
            continue
        tensor = weight.const_value
        perm = node.attributes["perm"].as_ints()
        transposed = ir.LazyTensor(
            partial(_transposed, tensor, perm),
            dtype=tensor.dtype,
            shape=ir.Shape([tensor.shape.numpy()[i] for i in perm]),
            name=weight.name,
        )
        graph.initializers.pop(str(weight.name))
        node.outputs[0].replace_all_uses_with(add_initializer(graph, transposed))
        graph.remove(node, safe=True)


def _transposed(tensor: ir.TensorProtocol, perm: Sequence[int]) -> ir.TensorProtocol:
    # in one piece: numpy writes a transposed view value by value, 2 s for the weights of SmolLM2-135M
    return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), name=tensor.name)


def keep_module_names(model: ir.Model) -> None:
    """Reduce each node's metadata to the module that it came from, the exporter's traces hold paths; and name weights
    as the original model does."""
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")  # "['', 'model', ..., operator]"
        node.metadata_props.clear()
        node.metadata_props[MODULE] = module_name(next(iter(ast.literal_eval(scopes)[-2:-1]), ""))
    for value in _values(model.graph):
        value.metadata_props.clear()
    for value in [*model.graph.initializers.values()]:
        value.name = str(value.name).removeprefix("model.")


def name_nodes(model: ir.Model) -> None:
    """Name each node after its module and its operator."""
    names = numbered(f"{node.metadata_props[MODULE]}.{node.op_type}" for node in model.graph)
    for node, name in zip(model.graph, names, strict=True):
        node.name = name


def heads(graph: ir.Graph) -> Iterator[ir.Node]:
    """The matrix products from which the logits come with no other in between."""
    waiting, seen = [graph.outputs[0]], set()
    while waiting:
        value = waiting.pop()
        node = value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type in ("MatMul", "Gemm"):
            yield node
        else:
            waiting += [value for value in node.inputs if value is not None]
