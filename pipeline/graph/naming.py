"""Names in the graph: of nodes, weights and axes.

A node is named after the module of the model that it came from, such as `model.layers.3.self_attn.Attention`, so that
a runtime's error points at a module.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

MODULE = "module"  # key of a node's metadata: the module of the model that it came from
ROOT = "decoder"  # what the wrapper itself computes, and the model outside of its submodules


def module_name(scope: str) -> str:
    """A module's name in the original model, from its name in the wrapper (pipeline.model.decoder)."""
    return scope.removeprefix("model.") if scope.startswith("model.") else ROOT


def numbered(names: Iterable[str]) -> Iterator[str]:
    """Each name unchanged the first time, then with _1, _2 and so on."""
    seen: Counter[str] = Counter()
    for name in names:
        yield f"{name}_{seen[name]}" if seen[name] else name
        seen[name] += 1


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


def keep_module_names(model: ir.Model) -> None:
    """Reduce each node's metadata to its module, as the exporter's traces contain paths of this machine, and name
    weights as the original model does."""
    for node in model.graph:
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]")  # "['', 'model', ..., operator]"
        node.metadata_props.clear()
        node.metadata_props[MODULE] = module_name(next(iter(ast.literal_eval(scopes)[-2:-1]), ""))
    for value in _values(model.graph):
        value.metadata_props.clear()
    for value in [*model.graph.initializers.values()]:
        value.name = str(value.name).removeprefix("model.")


def name_nodes(model: ir.Model, modules: Iterable[str]) -> None:
    """Name each node after its module, given in the nodes' order, and its operator."""
    names = numbered(f"{module}.{node.op_type}" for module, node in zip(modules, model.graph, strict=True))
    for node, name in zip(model.graph, names, strict=True):
        node.name = name


def exported_modules(model: ir.Model) -> list[str]:
    """The module of each node, from the metadata that `keep_module_names` and passes over it leave."""
    return [node.metadata_props[MODULE] for node in model.graph]


def inherited_modules(before: onnx.ModelProto, after: ir.Model) -> list[str]:
    """The module of each node of a graph that onnxsim made of another, whose nodes are named after theirs.

    A fused node has an output of the nodes that it replaces, and so their module; any other that of its inputs.
    """
    known = {name: node.name.rpartition(".")[0] for node in before.graph.node for name in node.output}
    found = []
    for node in after.graph:
        values = [str(value.name) for value in [*node.outputs, *node.inputs] if value is not None]
        module = next((known[name] for name in values if name in known), ROOT)
        known |= {str(output.name): module for output in node.outputs}
        found.append(module)
    return found
