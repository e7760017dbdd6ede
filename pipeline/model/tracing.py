"""Trace a decoder: its forward as an exported program whose batch and sequence are symbolic."""

from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from pipeline.core.contract import GraphContract
from pipeline.core.errors import Refusal, UserError
from pipeline.core.tables.refusals import FIXES, Category
from pipeline.model.decoder import Decoder

EXAMPLE = {"batch": 2, "sequence": 3}  # sizes that the tracer sees; 0 or 1 it would take as fixed
# Even an axis of one size is traced as symbolic, so the graph stays the same; the runtime holds the limit. In a range
# of 1 to 2 the tracer gives every input a symbol of its own.
LEAST_RANGE = 64

CASTS = (torch.ops.aten.to.dtype, torch.ops.aten.to.device)


def trace(decoder: Decoder, contract: GraphContract) -> ExportedProgram:
    """Return the program of one forward, with the contract's inputs and outputs; batch and sequence are symbolic, under
    these names, and every other size is fixed.

    Raises UserError where a size depends on numbers, such as how many tokens are routed to an adapter.
    """
    fixed = [torch.zeros(t.sized(**EXAMPLE), dtype=getattr(torch, t.dtype)) for t in contract.inputs]
    fixed[1].fill_(1)  # attention_mask
    arguments = (*fixed[:4], fixed[4:])
    axes = {name: Dim(name, min=1, max=max(LEAST_RANGE, most)) for name, most in contract.axes.items()}
    dynamic = [{i: axes[d] for i, d in enumerate(t.shape) if isinstance(d, str)} for t in contract.inputs]
    with torch.no_grad():  # else what the model computes without gradients becomes a graph of its own
        program = torch.export.export(decoder, arguments, dynamic_shapes=(*dynamic[:4], dynamic[4:]), strict=False)
    program.example_inputs = None  # two rows of every cache that the file would carry: 94 MB for SmolLM2-135M
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine: they would make equal programs differ
    if contract.compute != "bfloat16":
        _multiply_in_fp32(program)
    _drop_no_ops(program)
    _check_sizes(program, type(decoder.model).__name__)
    return program


def unread(program: ExportedProgram, contract: GraphContract) -> tuple[str, ...]:
    """The places of tokens that a program does not read: position_ids where slots stand for positions (ALiBi) or
    nothing does, both where it has no attention."""
    nodes = {node.name: node for node in program.graph.nodes}
    given = zip(program.graph_signature.user_inputs, contract.inputs, strict=True)
    places = ("position_ids", "cache_position")
    return tuple(tensor.name for name, tensor in given if tensor.name in places and not nodes[str(name)].users)


def _multiply_in_fp32(program: ExportedProgram) -> None:
    """Multiply in fp32 and round what a model of another type multiplies in bf16, as Falcon does its ALiBi: the same
    numbers, and ONNX Runtime's CPU has no Mul of bf16."""
    graph = program.graph_module.graph

    def cast(operand: Any, *dtypes: torch.dtype) -> Any:
        for dtype in dtypes if isinstance(operand, torch.fx.Node) else ():
            before = operand
            operand = graph.call_function(torch.ops.aten.to.dtype, (before, dtype))
            operand.meta["val"] = before.meta["val"].to(dtype)
        return operand

    for node in list(graph.nodes):
        if node.target is torch.ops.aten.mul.Tensor and node.meta["val"].dtype == torch.bfloat16:
            with graph.inserting_before(node):
                node.args = tuple(cast(operand, torch.bfloat16, torch.float32) for operand in node.args)
            node.meta["val"] = node.meta["val"].float()
            with graph.inserting_after(node):
                rounded = cast(node, torch.bfloat16)
            for user in set(node.users) - {rounded}:
                user.replace_input_with(node, rounded)


def _drop_no_ops(program: ExportedProgram) -> None:
    """Remove casts to the type that a tensor has already, and the tracer's assertions, 251 of SmolLM2's 2,020 nodes;
    and what nothing reads."""
    module = program.graph_module
    for node in module.graph.nodes:
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            module.graph.erase_node(node)
        elif node.target in CASTS and node.meta["val"].dtype == node.args[0].meta["val"].dtype:
            node.replace_all_uses_with(node.args[0])
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)  # it may be an output
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _check_sizes(program: ExportedProgram, architecture: str) -> None:
    """Raise UserError for an operator the size of whose result depends on the numbers that it gets."""
    for node in program.graph.nodes:
        if node.meta.get("unbacked_bindings"):
            module, _ = list(node.meta["nn_module_stack"].values())[-1]
            what = f"{architecture}: it cannot be traced: the size of {node.target}'s result depends on numbers"
            raise UserError(Refusal(what, f"module {module}", FIXES[Category.TRACING], Category.TRACING))
