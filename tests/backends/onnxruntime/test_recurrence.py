"""ONNX Runtime's own operator for a recurrence computes what the portable graph's Scan does."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from pipeline.backends.onnxruntime.attention import DOMAIN
from pipeline.backends.onnxruntime.recurrence import lower_recurrence
from pipeline.graph.editor import Editor
from pipeline.model import operators
from tests.support.recurrences import FORMS, NAMES, graph_of, inputs


@FORMS
def test_lowered_graph_equals_the_operator(delta: bool, by_key: bool) -> None:
    """For one token and for several, in one row and in more."""
    model = graph_of(delta=delta, by_key=by_key)
    editor = Editor(model)
    for node in editor.nodes("Scan"):
        lower_recurrence(editor, node)
    model.opset_imports[DOMAIN] = 1
    editor.finish()
    assert {node.op_type for node in model.graph} == {"LinearAttention", "Unsqueeze", "Reshape", "Squeeze"}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, sequence in ((1, 1), (1, 7), (3, 1), (2, 70)):
        given = inputs(batch, sequence, delta=delta, by_key=by_key, seed=sequence)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        for got, want in zip(found, operators.recur(*map(given.get, NAMES)), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-4)


def test_another_scan_stays() -> None:
    """One that is no recurrence."""
    model = graph_of(delta=True, by_key=False)
    (scan,) = (node for node in model.graph if node.op_type == "Scan")
    next(node for node in scan.attributes["body"].as_graph() if node.op_type == "Sub").op_type = "Add"
    lower_recurrence(Editor(model), scan)
    assert scan in list(model.graph)
