"""to_clients: the inputs of onnxruntime-genai, operators that older runtimes know, the same weights and answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pipeline import quantize
from pipeline.backends.onnxruntime.client import to_clients
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine
from tests.support.clients import engine_for_clients
from tests.support.points import build_once

Point = tuple[Path, GraphContract]


def graph(engine: Path) -> onnx.GraphProto:
    """An engine's graph."""
    return onnx.load(engine / layout.MODEL, load_external_data=False).graph


def test_inputs_and_operators(client: Point, tiny: Point) -> None:
    """As many nodes as our own engine has, and the same file of weights; older runtimes' 16 inputs are enough."""
    made, own = graph(client[0] / layout.ENGINE), graph(tiny[0] / layout.ENGINE)
    inputs = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in made.input
    }
    assert list(inputs)[:3] == ["input_ids", "attention_mask", "position_ids"]
    assert "cache_position" not in inputs
    assert inputs["attention_mask"] == ["batch", "total_sequence"]
    assert {len(node.input) for node in made.node if node.op_type == "GroupQueryAttention"} == {10}
    assert len(made.node) == len(own.node)
    files = [point / layout.ENGINE / layout.DATA for point in (client[0], tiny[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


STEPS = ([[1, 2, 3, 4], [5]], [[6], [7]], [[8, 9, 10], [11, 12]], [[], [13]], [[14, 15], []], [[16], [17]])


def test_the_same_answers(client: Point, tiny: Point) -> None:
    """As the portable graph: a ragged prompt, decode, ragged chunks, idle rows."""
    portable = OnnxRuntime(tiny[0] / layout.SIMPLIFIED / layout.MODEL, tiny[1], Profiles.of_axes(tiny[1])).session(2)
    session = open_engine(client[0] / layout.ENGINE).session(2)
    for tokens in STEPS:
        want, got = portable.step(tokens), session.step(tokens)
        used = [bool(row) for row in tokens]
        np.testing.assert_allclose(got[used], want[used], atol=1e-5)


@pytest.mark.slow
def test_logits_at_every_position(tmp_path: Path) -> None:
    """The mask of new tokens, which the graph reads for them, is made of the one over all slots."""
    contract = build_once(tmp_path, ["wrap.logits=all"], quantize)
    model, profiles = tmp_path / layout.SIMPLIFIED / layout.MODEL, Profiles.of_axes(contract)
    want = OnnxRuntime(model, contract, profiles).session(2)
    got = open_engine(engine_for_clients(tmp_path)).session(2)
    for tokens in STEPS:
        np.testing.assert_allclose(got.step(tokens), want.step(tokens), atol=1e-5)


def test_caches_of_several_sizes_are_refused(client: Point) -> None:
    """Clients make them all alike."""
    contract = client[1]
    first, *rest = contract.caches
    odd = replace(first, shape=(*first.shape[:3], 32))
    others = tuple(odd if tensor == first else tensor for tensor in contract.inputs)
    empty = ir.Model(ir.Graph([], [], nodes=[]), ir_version=11)
    with pytest.raises(UserError, match="caches have several shapes") as error:
        to_clients(empty, replace(contract, inputs=others))
    assert error.value.problems[0].fix == "engine=onnxruntime_cpu"
    assert rest


def test_states_are_refused(client: Point) -> None:
    """Clients make keys and values alone."""
    contract = replace(client[1], rules={client[1].caches[0].name: "shift"})
    empty = ir.Model(ir.Graph([], [], nodes=[]), ir_version=11)
    with pytest.raises(UserError, match="the model keeps 1 states besides keys and values, which clients do not make"):
        to_clients(empty, contract)


def test_standard_attention_is_refused(tiny: Point) -> None:
    """A head_dim without a kernel, latent attention: the portable graph's operators would stay."""
    portable = ir.load(tiny[0] / layout.SIMPLIFIED / layout.MODEL)
    with pytest.raises(UserError, match="6 nodes of attention are no GroupQueryAttention"):
        to_clients(portable, tiny[1])
