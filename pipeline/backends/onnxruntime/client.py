"""Give a lowered graph the inputs that clients give: onnxruntime-genai, and programs written for its models.

They give attention_mask [batch, total_sequence], with ones for a row's tokens in the cache and for its new ones, and
position_ids [batch, sequence], but no cache_position. So cache_position becomes the first of position_ids, and a row's
new tokens are the ones in its mask less cache_position. GroupQueryAttention keeps the 16 inputs that runtimes before
1.32 know at most. Lost is what needs the 17th: new tokens of several rows at once after a cache that is not empty.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from pipeline.core.contract import TOTAL, GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.graph.editor import Editor, attribute, integers, operand

QUERY_LENGTHS = 16  # the input of GroupQueryAttention that makes ragged chunks right
SMALL_FIX = "engine=onnxruntime_cpu"


def to_clients(model: ir.Model, contract: GraphContract) -> GraphContract:
    """Rewrite a lowered graph of the contract in place; return the contract that it has now.

    Raises UserError for a model that clients cannot run.
    """
    problems = [*_cache_problems(contract), *_attention_problems(model)]
    if problems:
        raise UserError(problems)
    for node in model.graph:
        if node.op_type == "GroupQueryAttention":
            given = [index for index, value in enumerate(node.inputs[:QUERY_LENGTHS]) if value is not None]
            node.resize_inputs(given[-1] + 1)
    editor = Editor(model)
    tokens, position = editor.inputs["attention_mask"], editor.inputs["cache_position"]
    mask = ir.Value(name=tokens.name, shape=ir.Shape(["batch", TOTAL]), type=tokens.type)
    tokens.name = None
    inputs = model.graph.inputs
    inputs[inputs.index(tokens)] = mask
    inputs.remove(position)
    first, ids = editor.first, editor.inputs["input_ids"]
    zero = editor.constant("client.zero", np.array(0, np.int64))
    one = editor.constant("client.one", np.array([1], np.int64))
    like = [ir.Value(shape=position.shape, type=position.type)]
    start = editor.insert(first, "Gather", [editor.inputs["position_ids"], zero], axis=1, like=like).outputs[0]
    used = editor.insert(first, "ReduceSum", [mask, one], keepdims=0, like=like).outputs[0]
    new = editor.insert(first, "Sub", [used, start], like=like).outputs[0]
    position.replace_all_uses_with(start)
    for use in list(tokens.uses()):
        if use.node.op_type == "Shape":
            use.node.replace_input_with(use.idx, ids)
        elif use.node.op_type == "ReduceSum" and _over_tokens(use.node):
            editor.replace(use.node.outputs[0], new)
        else:
            use.node.replace_input_with(use.idx, _ones(editor, first, ids, new))
    editor.finish()
    return contract.for_clients()


def _ones(editor: Editor, first: ir.Node, ids: ir.Value, new: ir.Value) -> ir.Value:
    """The contract's attention_mask, [batch, sequence], with ones for new tokens."""

    def out(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return editor.insert(first, op, inputs, **attributes).outputs[0]  # type: ignore[arg-type]  # ours are ints

    zero, step = (editor.constant(f"client.{n}", np.array(n, np.int64)) for n in (0, 1))
    column = out("Unsqueeze", new, editor.constant("client.one", np.array([1], np.int64)))
    length = out("Squeeze", out("Shape", ids, start=1, end=2))
    return out("Cast", out("Less", out("Range", zero, length, step), column), to=int(ir.DataType.INT64))


def _over_tokens(node: ir.Node) -> bool:
    """Whether a ReduceSum counts each row's tokens, as [batch]."""
    return integers(operand(node, 1)) in ([1], [-1]) and not attribute(node, "keepdims", 1)


def _cache_problems(contract: GraphContract) -> Iterator[Problem]:
    """Clients make all caches of one size, from three numbers, and states by names of their own."""
    if contract.states:
        what = f"the model keeps {len(contract.states)} states besides keys and values, which clients do not make"
        yield Problem(what, "engine.kind", SMALL_FIX)
    shapes = sorted({cache.shape[1:] for cache in contract.caches}, key=str)
    if len(shapes) > 1:
        found = " and ".join(" x ".join(map(str, shape)) for shape in shapes)
        what = f"the layers' caches have several shapes (kv_heads x slots x head_dim: {found}), clients make one"
        yield Problem(what, "engine.kind", SMALL_FIX)


def _attention_problems(model: ir.Model) -> Iterator[Problem]:
    """Their runtimes have no kernels for what GroupQueryAttention does not compute."""
    left = [str(node.name) for node in model.graph if node.op_type in ("Attention", "TensorScatter")]
    if left:
        what = f"{len(left)} nodes of attention are no GroupQueryAttention, which is what clients run: {left[0]} ..."
        yield Problem(what, "engine.kind", SMALL_FIX)
