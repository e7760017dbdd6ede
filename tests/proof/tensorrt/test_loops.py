"""loops: a TensorRT network's loop computes what the Scan that it was parsed from does."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.backends.tensorrt.network import parse
from pipeline.core.contract import LOGITS, GraphContract, Tensor
from pipeline.core.profiles import Profiles
from pipeline.graph import onnx_file
from pipeline.model import operators
from pipeline.proof.tensorrt.interpreter import Interpreter
from pipeline.proof.tensorrt.loops import Loop
from tests.support.recurrences import FORMS, NAMES, graph_of, inputs
from tests.support.tensorrt import rtx


@FORMS
def test_interpreted_loop_equals_the_operator(delta: bool, by_key: bool, tmp_path: Path) -> None:
    """Its outputs at every token, and its last state."""
    api, given = rtx(), inputs(2, 6, delta=delta, by_key=by_key)
    model = graph_of(delta=delta, by_key=by_key)
    out = next(value for value in model.graph.outputs if value.name == "out")
    out.name = LOGITS
    onnx_file.save(model, tmp_path)
    contract = GraphContract(
        tuple(Tensor(name, "float32", ("batch", *tensor.shape[1:])) for name, tensor in given.items()),
        (Tensor(LOGITS, "float32", ("batch", 1, 1)), Tensor("new_state", "float32", ("batch", 1))),
        {"new_state": "state"},
        {"batch": 2, "sequence": 6},
        cache_size=8,
    )
    found = Interpreter(parse(api, tmp_path), contract, Profiles.of_axes(contract)).run(dict(given))
    wanted = operators.recur(*map(given.get, NAMES))
    for name, want in zip((LOGITS, "new_state"), wanted, strict=True):
        np.testing.assert_allclose(found[name].numpy(), want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_loop_without_known_length_is_not_interpreted() -> None:
    """It ends by a condition."""
    trt = SimpleNamespace(TripLimit=SimpleNamespace(COUNT=0, WHILE=1))

    class ITripLimitLayer:
        """A limit of another kind."""

        kind = 1

    with pytest.raises(NotImplementedError, match="not over all elements"):
        Loop(trt, [ITripLimitLayer()], [])
