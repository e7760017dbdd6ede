"""Recurrences over the sequence in standard operators: a Scan over the tokens, and how to read it back.

All that does not depend on the state is computed for all tokens at once, in front of the Scan. Its body is the rest:
four operators, or seven with the delta rule (see pipeline.model.operators.recur).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir

from pipeline.graph.editor import Editor, described, operand

FLOAT = ir.DataType.FLOAT
_FLOAT = "tensor(float)"
# the node that translation writes and `write_recurrences` replaces; registered, as torch.onnx asks for a schema
SCHEMA = onnx.defs.OpSchema(
    "Recur",
    "kvforge",
    1,
    inputs=[
        *(onnx.defs.OpSchema.FormalParameter(name, _FLOAT) for name in ("query", "key", "value", "decay")),
        onnx.defs.OpSchema.FormalParameter(
            "beta", _FLOAT, param_option=onnx.defs.OpSchema.FormalParameterOption.Optional
        ),
        onnx.defs.OpSchema.FormalParameter("state", _FLOAT),
    ],
    outputs=[onnx.defs.OpSchema.FormalParameter(name, _FLOAT) for name in ("out", "new_state")],
)
if not onnx.defs.has(SCHEMA.name, SCHEMA.domain):
    onnx.defs.register_schema(SCHEMA)
QUERY, KEY, VALUE, DECAY, BETA, STATE = range(6)
GATED = ["Mul", "Mul", "Add", "MatMul"]
DELTA = ["Mul", "MatMul", "Sub", "Mul", "Mul", "Add", "MatMul"]


def write_recurrences(model: ir.Model) -> None:
    """Replace every Recur node of a graph by standard operators."""
    editor = Editor(model)
    for node in [node for node in model.graph if (node.domain, node.op_type) == (SCHEMA.domain, SCHEMA.name)]:
        _write(editor, node)
    model.opset_imports.pop(SCHEMA.domain, None)


def _write(editor: Editor, node: ir.Node) -> None:
    given = [operand(node, index) for index in range(STATE + 1)]

    def put(op: str, inputs: Sequence[ir.Value | None], shape: Sequence[Any], **attributes: Any) -> ir.Value:
        return editor.insert(node, op, inputs, like=[described(FLOAT, shape)], **attributes).outputs[0]

    def widened(value: ir.Value, *axes: int) -> ir.Value:
        name = "recurrence.axes_" + "_".join(map(str, axes))
        shape = _shape(value)
        for axis in axes:
            shape.insert(axis, 1)
        return put("Unsqueeze", [value, editor.constant(name, ir.tensor(list(axes)).numpy())], shape)

    query, key, value, decay, beta, state = given
    assert query is not None
    assert key is not None
    assert value is not None
    assert decay is not None
    assert state is not None
    scanned = {
        "fade": widened(put("Exp", [decay], _shape(decay)), 4),
        "key": widened(key, 4),
        "value": widened(value, 3),
        "query": widened(query, 3),
    }
    if beta is not None:
        scanned |= {"key_row": widened(key, 3), "beta": widened(beta, 3, 4)}
    body = _body(state, scanned)
    outs = [*_shape(value)[:3], 1, *_shape(value)[3:]]
    scan = editor.insert(
        node,
        "Scan",
        [state, *scanned.values()],
        like=[described(FLOAT, _shape(state)), described(FLOAT, outs)],
        body=body,
        num_scan_inputs=len(scanned),
        scan_input_axes=[1] * len(scanned),
        scan_output_axes=[1],
    )
    out = put("Squeeze", [scan.outputs[1], editor.constant("recurrence.axes_3", ir.tensor([3]).numpy())], _shape(value))
    editor.replace(node.outputs[0], out)
    editor.replace(node.outputs[1], scan.outputs[0])
    editor.graph.remove(node, safe=True)


def _shape(value: ir.Value) -> list[Any]:
    assert value.shape is not None
    return list(value.shape)


def _body(state: ir.Value, scanned: dict[str, ir.Value]) -> ir.Graph:
    """One token: [batch, heads, ...] of each scanned tensor."""
    nodes: list[ir.Node] = []

    def named(name: str, shape: Sequence[Any]) -> ir.Value:
        return ir.val(f"{name}_of_a_token", FLOAT, shape)

    def put(op: str, *inputs: ir.Value) -> ir.Value:
        node = ir.node(op, inputs, name=f"{op}_{len(nodes)}")
        node.outputs[0].name = f"{node.name}.0"
        node.outputs[0].type = ir.TensorType(FLOAT)
        nodes.append(node)
        return node.outputs[0]

    before = named("state", _shape(state))
    token = {name: named(name, [_shape(each)[0], *_shape(each)[2:]]) for name, each in scanned.items()}
    faded = put("Mul", before, token["fade"])
    added = token["value"]
    if "beta" in token:
        added = put("Mul", put("Sub", added, put("MatMul", token["key_row"], faded)), token["beta"])
    after = put("Add", faded, put("Mul", token["key"], added))
    out = put("MatMul", token["query"], after)
    after.shape, out.shape = before.shape, token["value"].shape
    return ir.Graph([before, *token.values()], [after, out], nodes=nodes, name="recurrence")


@dataclass(frozen=True)
class RecurrenceForm:
    """One recurrence of a graph; see pipeline.model.operators.recur. The tensors are those that the Scan takes and
    gives, with axes of one: fade, the exponential of decay: [batch, sequence, heads, 1 or key_dim, 1]; key: [...,
    key_dim, 1]; value, out: [..., 1, value_dim]; query: [..., 1, key_dim]; beta: [..., 1, 1], None without the delta
    rule.
    """

    state: ir.Value
    fade: ir.Value
    key: ir.Value
    value: ir.Value
    query: ir.Value
    beta: ir.Value | None
    new_state: ir.Value
    out: ir.Value

    @classmethod
    def of(cls, scan: ir.Node) -> "RecurrenceForm | None":
        """The recurrence that a Scan computes; None for any other node."""
        if scan.op_type != "Scan" or scan.domain:
            return None
        operators = [node.op_type for node in scan.attributes["body"].as_graph()]
        if (len(scan.inputs), operators) not in ((5, GATED), (7, DELTA)):
            return None
        state, fade, key, value, query, *more = (value for value in scan.inputs if value is not None)
        new_state, out = scan.outputs
        return cls(state, fade, key, value, query, more[1] if more else None, new_state, out)
