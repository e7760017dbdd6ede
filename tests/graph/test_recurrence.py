"""Recurrences in standard operators: the operator's results, and read back."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from pipeline.graph.recurrence import RecurrenceForm
from pipeline.model import operators
from tests.support.recurrences import FORMS, NAMES, graph_of, inputs


@FORMS
def test_graph_equals_the_operator(delta: bool, by_key: bool) -> None:
    """For one token and for several, in one row and in more."""
    proto = ir.to_proto(graph_of(delta=delta, by_key=by_key))
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 24)]
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, sequence in ((1, 1), (1, 7), (3, 1), (2, 20)):
        given = inputs(batch, sequence, delta=delta, by_key=by_key, seed=sequence)
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        for got, want in zip(found, operators.recur(*map(given.get, NAMES)), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_only_a_recurrence_is_read_back() -> None:
    """A Scan of one that was changed in one operator is none."""
    (scan,) = (node for node in graph_of(delta=True, by_key=False).graph if node.op_type == "Scan")
    form = RecurrenceForm.of(scan)
    assert form is not None
    assert (form.state.name, form.new_state.name) == ("state", "new_state")
    next(node for node in scan.attributes["body"].as_graph() if node.op_type == "Sub").op_type = "Add"
    assert RecurrenceForm.of(scan) is None
