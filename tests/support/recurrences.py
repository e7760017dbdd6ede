"""Recurrences for tests: random inputs, and a graph of one."""

import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes.common import NameFixPass
from torch import nn

from pipeline.graph.recurrence import SCHEMA, write_recurrences

HEADS, KEY_DIM, VALUE_DIM = 3, 4, 5
NAMES = ["query", "key", "value", "decay", "beta", "state"]
FORMS = pytest.mark.parametrize(("delta", "by_key"), [(False, False), (False, True), (True, False), (True, True)])
Given = dict[str, torch.Tensor]


def inputs(batch: int, sequence: int, *, delta: bool, by_key: bool, seed: int = 0) -> Given:
    """Random inputs; by_key: a decay of its own for each of a key's numbers."""
    draw = torch.Generator().manual_seed(seed)
    size = (batch, sequence, HEADS)
    given = {
        "query": torch.randn(*size, KEY_DIM, generator=draw),
        "key": nn.functional.normalize(torch.randn(*size, KEY_DIM, generator=draw), dim=-1),
        "value": torch.randn(*size, VALUE_DIM, generator=draw),
        "decay": -torch.rand(*size, KEY_DIM if by_key else 1, generator=draw),
        "beta": torch.rand(*size, generator=draw),
        "state": torch.randn(batch, HEADS, KEY_DIM, VALUE_DIM, generator=draw),
    }
    if not delta:
        del given["beta"]
    return given


def graph_of(*, delta: bool, by_key: bool) -> ir.Model:
    """The portable graph of a recurrence; batch and sequence are symbolic."""
    values: dict[str, ir.Value | None] = dict.fromkeys(NAMES)
    for name, tensor in inputs(1, 1, delta=delta, by_key=by_key).items():
        axes = ["batch"] if name == "state" else ["batch", "sequence"]
        values[name] = ir.val(name, ir.DataType.FLOAT, [*axes, *tensor.shape[len(axes) :]])
    node = ir.node(SCHEMA.name, list(values.values()), domain=SCHEMA.domain, num_outputs=2, name="layer.Recur")
    for output, name, like in zip(node.outputs, ("out", "new_state"), ("value", "state"), strict=True):
        model = values[like]
        assert model is not None
        output.name, output.shape, output.type = name, model.shape, model.type
    given = [value for value in values.values() if value is not None]
    opsets = {"": 24, SCHEMA.domain: 1}
    made = ir.Model(ir.Graph(given, node.outputs, nodes=[node], opset_imports=opsets, name="recurrence"), ir_version=11)
    write_recurrences(made)
    NameFixPass()(made)
    return made
