"""Inspect an artifact: does it have the contract's inputs, outputs and axes, and is the cache updated in place?

Nothing here trusts a name or an option given to a converter; each check reads the finished program or graph.
Every function returns findings as sentences, none when everything is right.
"""

from collections.abc import Callable, Iterable
from typing import Any

import onnx
import onnx_ir as ir
import torch

from pipeline.core.contract import GraphContract, Tensor
from pipeline.core.tables.dtypes import BY_ONNX
from pipeline.graph.attention import AttentionForm
from pipeline.graph.expert_form import ExpertForm
from pipeline.graph.onnx_file import names_read
from pipeline.graph.recurrence import RecurrenceForm

HALF = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
FORBIDDEN = {"If", "Loop", "Scan"}  # but for a Loop over a mixture's experts, and a Scan of a recurrence


def program_findings(program: torch.export.ExportedProgram, contract: GraphContract) -> list[str]:
    """Findings about an exported program: each declared axis one symbol everywhere, all other dimensions numbers."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    names = [*program.graph_signature.user_inputs, *program.graph_signature.user_outputs]
    tensors = [*contract.inputs, *contract.outputs]
    if len(names) != len(tensors):
        return [f"it has {len(names)} inputs and outputs, the contract has {len(tensors)}"]
    findings = []
    symbols: dict[str, str] = {}  # symbol -> axis, by first use
    for name, want in zip(names, tensors, strict=True):
        value = values[str(name)]
        shape: list[int | str] = []
        for dim, axis in zip(value.shape, want.shape, strict=False):
            if isinstance(dim, int):
                shape.append(dim)
            else:
                shape.append(symbols.setdefault(str(dim), str(axis)))
        found = Tensor(want.name, str(value.dtype).removeprefix("torch."), tuple(shape))
        findings += _differences(found, want)
    maxima = {str(symbol): int(values.upper) for symbol, values in program.range_constraints.items()}
    for symbol, axis in symbols.items():
        if maxima.get(symbol, 0) < contract.axes.get(axis, 1):
            findings.append(f"axis {axis} ends at {maxima.get(symbol)}, declared is {contract.axes.get(axis)}")
    return findings + _program_angle_findings(program)


def _program_angle_findings(program: torch.export.ExportedProgram) -> list[str]:
    """Findings about rotary angles: cos and sin of positions must be computed from fp32 only."""
    inputs = set(map(str, program.graph_signature.user_inputs))
    findings = []
    for node in program.graph.nodes:
        if node.target not in (torch.ops.aten.cos.default, torch.ops.aten.sin.default):
            continue
        path = _upstream(node.args[0], lambda value: value.all_input_nodes)
        if len(inputs.intersection(value.name for value in path)) > 1:
            continue  # computed from more than positions
        types = {value.name: value.meta["val"].dtype for value in path if hasattr(value.meta.get("val"), "dtype")}
        short = sorted(name for name, dtype in types.items() if dtype.is_floating_point and dtype.itemsize < 4)
        findings += [f"{node.name}: rotary angles are computed in 16 bits, in {', '.join(short)}"] if short else []
    return findings


def onnx_findings(model: onnx.ModelProto, contract: GraphContract) -> list[str]:
    """Findings about a portable graph: interface, axes, standard operators only, cache in place, causal lengths."""
    return [
        *interface_findings(model, contract),
        *_operator_findings(model),
        *_cache_findings(model, contract),
        *_angle_findings(model),
    ]


def interface_findings(model: onnx.ModelProto, contract: GraphContract) -> list[str]:
    """Findings about the names, types and shapes of a graph's inputs and outputs, which a lowered graph must keep."""
    initializers = {t.name for t in model.graph.initializer}
    found = {v.name: _tensor(v) for v in [*model.graph.input, *model.graph.output] if v.name not in initializers}
    findings = []
    for want in [*contract.inputs, *contract.outputs]:
        if want.name in found:
            findings += _differences(found.pop(want.name), want)
        else:
            findings.append(f"{want.name} is missing")
    read = names_read(model.graph)
    findings += [f"input {t.name} is not used" for t in contract.inputs if t.name not in {*read, *contract.unused}]
    return findings + [f"{name} is not in the contract" for name in found]


def window_findings(model: onnx.ModelProto, contract: GraphContract) -> list[str]:
    """Findings about an engine's caches that keep a sliding window only: the attention that reads one has this window,
    and all others keep all tokens."""
    found: dict[str, int | None] = {}
    for node in model.graph.node:
        attributes = {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
        if attributes.get("sliding_window_cache"):
            found |= dict.fromkeys(node.input[3:5], attributes.get("local_window_size"))
    return [
        f"{name} keeps a window of {found.get(name)}, declared is {contract.windows.get(name)}"
        for name in sorted(found.keys() | contract.windows.keys())
        if found.get(name) != contract.windows.get(name)
    ]


def _operator_findings(model: onnx.ModelProto) -> list[str]:
    domains = {node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    findings = [f"operators of the domain {domain}, not standard ONNX" for domain in sorted(domains)]
    flow = [node for node in ir.from_proto(model).graph if node.op_type in FORBIDDEN]
    control = {node.op_type for node in flow if ExpertForm.of(node) is None and RecurrenceForm.of(node) is None}
    findings += [f"control flow: {op}" for op in sorted(control)]
    if model.functions:
        findings.append(f"{len(model.functions)} local functions")
    for node in model.graph.node:
        if node.op_type != "Attention":
            continue
        form = AttentionForm.of_proto(node)
        if not form.is_portable:
            findings.append(
                f"{node.name} must either be causal with key lengths or have a mask alone: it has "
                f"is_causal={int(form.is_causal)}, lengths={form.lengths is not None}, mask={form.mask is not None}"
            )
    return findings


def _cache_findings(model: onnx.ModelProto, contract: GraphContract) -> list[str]:
    producers = {name: node for node in model.graph.node for name in node.output}
    findings = []
    for new, past in contract.aliases.items():
        node = producers.get(new)
        if past in contract.rules:
            continue  # computed anew: the cases show what it holds
        if node is None or node.op_type != "TensorScatter" or node.input[0] != past:
            how = "nothing" if node is None else f"{node.op_type} of {node.input[0]}"
            findings.append(f"{new} is {how}, not a TensorScatter into {past}: it cannot be in place")
    return findings


def _angle_findings(model: onnx.ModelProto) -> list[str]:
    """Findings about rotary angles: Cos and Sin of positions must be computed from fp32 only."""
    producers = {name: node for node in model.graph.node for name in node.output}
    half = {t.name for t in model.graph.initializer if t.data_type in HALF}
    inputs = {value.name for value in model.graph.input}

    def sources(name: str) -> Iterable[str]:
        return filter(None, producers[name].input) if name in producers else ()

    findings = []
    for node in model.graph.node:
        if node.op_type not in ("Cos", "Sin"):
            continue
        path = _upstream(node.input[0], sources)
        if len(inputs.intersection(path)) > 1:
            continue  # computed from more than positions
        made = (producers[name] for name in path if name in producers)
        casts = {n.name for n in made if any(a.name == "to" and a.i in HALF for a in n.attribute)}
        short = sorted(half.intersection(path) | casts)
        findings += [f"{node.name}: rotary angles are computed in 16 bits, in {', '.join(short)}"] if short else []
    return findings


def _upstream(start: Any, sources: Callable[[Any], Iterable[Any]]) -> list[Any]:
    """A value and everything it is computed from."""
    found: dict[Any, None] = {start: None}
    left = [start]
    while left:
        for source in sources(left.pop()):
            if source not in found:
                found[source] = None
                left.append(source)
    return list(found)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    shape: Iterable[int | str] = (d.dim_param or d.dim_value for d in kind.shape.dim)
    dtype = BY_ONNX[kind.elem_type].name if kind.elem_type in BY_ONNX else f"of ONNX type {kind.elem_type}"
    return Tensor(value.name, dtype, tuple(shape))


def _differences(found: Tensor, want: Tensor) -> list[str]:
    findings = []
    if found.dtype != want.dtype:
        findings.append(f"{want.name} is {found.dtype}, declared is {want.dtype}")
    if found.shape != want.shape:
        shapes = (f"[{', '.join(map(str, t.shape))}]" for t in (found, want))
        findings.append("{} is {}, declared is {}".format(want.name, *shapes))
    return findings


def size_findings(sizes: dict[str, set[int]], largest: dict[str, int]) -> list[str]:
    """Findings about the sizes of each axis that were run: 1 and at least two more, where the axis has as many."""
    findings = []
    for axis, maximum in largest.items():
        ran = sizes.get(axis, set())
        if 1 not in ran or len(ran) < min(3, maximum):
            findings.append(f"axis {axis} was only run at sizes {sorted(ran)}")
    return findings
