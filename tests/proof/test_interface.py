"""interface: each departure from the contract is one finding that names it; sound artifacts have none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.model import pt2
from pipeline.proof.interface import interface_findings, onnx_findings, program_findings, size_findings, window_findings

Point = tuple[Path, GraphContract]


@pytest.fixture
def graph(tiny: Point) -> onnx.ModelProto:
    """The tiny Llama's portable graph, without weights, to be damaged."""
    return onnx.load(tiny[0] / layout.SIMPLIFIED / layout.MODEL, load_external_data=False)


@pytest.fixture(scope="module")
def program(tiny: Point) -> torch.export.ExportedProgram:
    """The tiny Llama's program. Not to be changed."""
    return pt2.load(tiny[0] / layout.WRAPPED / layout.PROGRAM)


def first(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    """The first node of an operator."""
    return next(node for node in model.graph.node if node.op_type == op)


def lost_output(model: onnx.ModelProto) -> str:
    """The last cache does not come out."""
    del model.graph.output[-1]
    return "present.1.value is missing"


def one_more_output(model: onnx.ModelProto) -> str:
    """An output that nobody asked for."""
    model.graph.output.append(helper.make_tensor_value_info("attention", TensorProto.FLOAT, [1]))
    return "attention is not in the contract"


def other_type(model: onnx.ModelProto) -> str:
    """Logits in another type."""
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return "logits is float16, declared is float32"


def other_axis(model: onnx.ModelProto) -> str:
    """Two axes with one name."""
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "batch"
    return "input_ids is [batch, batch], declared is [batch, sequence]"


def unused_input(model: onnx.ModelProto) -> str:
    """Padding would be read as tokens."""
    for node in model.graph.node:
        node.input[:] = ["input_ids" if name == "attention_mask" else name for name in node.input]
    return "input attention_mask is not used"


def foreign_operator(model: onnx.ModelProto) -> str:
    """An operator of one runtime."""
    model.graph.node.append(helper.make_node("Gelu", ["logits"], ["x"], domain="com.microsoft"))
    return "operators of the domain com.microsoft, not standard ONNX"


def branch(model: onnx.ModelProto) -> str:
    """Control flow."""
    empty = helper.make_graph([], "empty", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], [], then_branch=empty, else_branch=empty))
    return "control flow: If"


def function(model: onnx.ModelProto) -> str:
    """A function of the file's own."""
    opset = [helper.make_opsetid("", 24)]
    model.functions.append(helper.make_function("local", "f", ["x"], ["x"], [], opset))
    return "1 local functions"


def attention_without_lengths(model: onnx.ModelProto) -> str:
    """Slots that are not filled yet would be read."""
    node = first(model, "Attention")
    del node.input[3:]
    return f"{node.name} must either be causal with key lengths or have a mask alone"


def attention_that_is_not_causal(model: onnx.ModelProto) -> str:
    """With lengths alone."""
    node = first(model, "Attention")
    for attribute in node.attribute:
        if attribute.name == "is_causal":
            attribute.i = 0
    return f"{node.name} must either be causal with key lengths or have a mask alone"


def copied_cache(model: onnx.ModelProto) -> str:
    """The cache is written into a copy."""
    node = first(model, "TensorScatter")
    past = node.input[0]
    node.input[0] = "copy"
    model.graph.node.insert(0, helper.make_node("Identity", [past], ["copy"]))
    return f"{node.output[0]} is TensorScatter of copy, not a TensorScatter into {past}: it cannot be in place"


def cache_out_of_nothing(model: onnx.ModelProto) -> str:
    """No node makes the output."""
    node = first(model, "TensorScatter")
    name = node.output[0]
    node.output[0] = "x"
    return f"{name} is nothing, not a TensorScatter into {node.input[0]}: it cannot be in place"


def angles_in_16_bits(model: onnx.ModelProto) -> str:
    """Positions beyond 2,048 are rounded."""
    node = first(model, "Cos")
    cast = helper.make_node("Cast", [node.input[0]], ["half"], "halves", to=TensorProto.FLOAT16)
    node.input[0] = "half"
    model.graph.node.insert(0, cast)
    return f"{node.name}: rotary angles are computed in 16 bits, in halves"


DAMAGES = (
    *(lost_output, one_more_output, other_type, other_axis, unused_input, foreign_operator, branch, function),
    *(attention_without_lengths, attention_that_is_not_causal, copied_cache, cache_out_of_nothing, angles_in_16_bits),
)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_each_damage_of_a_graph_is_one_finding(
    graph: onnx.ModelProto, tiny: Point, damage: Callable[[onnx.ModelProto], str]
) -> None:
    """And nothing else is found in a graph that is sound otherwise."""
    assert onnx_findings(graph, tiny[1]) == []
    wanted = damage(graph)
    (found,) = onnx_findings(graph, tiny[1])
    assert found.startswith(wanted)


def test_a_lowered_graph_is_held_to_the_interface_alone(tiny: Point) -> None:
    """Operators of the engine's runtime are right in an engine."""
    engine = onnx.load(tiny[0] / layout.ENGINE / layout.MODEL, load_external_data=False)
    assert {node.domain for node in engine.graph.node} - {""}
    assert interface_findings(engine, tiny[1]) == []
    assert onnx_findings(engine, tiny[1]) != []


def test_initializers_among_the_inputs_are_not_inputs(graph: onnx.ModelProto, tiny: Point) -> None:
    """As some converters list them."""
    weight = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "weight")
    graph.graph.initializer.append(weight)
    graph.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [1]))
    assert interface_findings(graph, tiny[1]) == []


def test_a_sound_program(program: torch.export.ExportedProgram, tiny: Point) -> None:
    """Its axes are symbols that go as far as declared."""
    assert program_findings(program, tiny[1]) == []


def test_a_program_of_another_contract(program: torch.export.ExportedProgram, tiny: Point) -> None:
    """Types, shapes, how far an axis goes (here beyond what is declared), and the number of tensors."""
    contract = tiny[1]
    logits, *caches = contract.outputs
    other = replace(contract, outputs=(replace(logits, dtype="float16"), *caches))
    assert program_findings(program, other) == ["logits is float32, declared is float16"]
    other = replace(contract, outputs=(replace(logits, shape=("batch", 1, 7)), *caches))
    assert program_findings(program, other) == ["logits is [batch, 1, 512], declared is [batch, 1, 7]"]
    other = replace(contract, axes=contract.axes | {"batch": 999})
    assert program_findings(program, other) == ["axis batch ends at 64, declared is 999"]
    other = replace(contract, outputs=contract.outputs[:-1])
    count = len(contract.inputs) + len(contract.outputs)
    assert program_findings(program, other) == [f"it has {count} inputs and outputs, the contract has {count - 1}"]


class Angles(torch.nn.Module):
    """Cosines of positions, computed in one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return (positions.to(self.dtype) * 0.5).float().cos()


@pytest.mark.parametrize(("dtype", "sound"), [(torch.float32, True), (torch.float16, False), (torch.bfloat16, False)])
def test_angles_of_a_program(dtype: torch.dtype, sound: bool, tiny: Point) -> None:
    """16 bits are found wherever they stand before the cosine, not only in its own input."""
    program = torch.export.export(Angles(dtype), (torch.arange(4),))
    names = [*program.graph_signature.user_inputs, *program.graph_signature.user_outputs]
    positions, out = (replace(tiny[1].inputs[0], name=str(n), shape=(4,)) for n in names)
    contract = replace(tiny[1], inputs=(positions,), outputs=(replace(out, dtype="float32"),))
    found = program_findings(program, contract)
    assert (found == []) == sound
    assert all("rotary angles are computed in 16 bits" in finding for finding in found)


@pytest.mark.parametrize(
    ("ran", "largest", "missing"),
    [
        ({1, 2, 8}, 8, False),
        ({1, 8}, 8, True),
        ({2, 3, 8}, 8, True),
        ({1, 2}, 2, False),
        ({1}, 1, False),
        (set(), 1, True),
    ],
)
def test_sizes_of_an_axis(ran: set[int], largest: int, missing: bool) -> None:
    """1 and two more, or all that there are: a batch of one alone would hide what mixes rows."""
    wanted = [f"axis batch was only run at sizes {sorted(ran)}"] if missing else []
    assert size_findings({"batch": ran}, {"batch": largest}) == wanted


def test_windows_of_caches_are_those_of_the_attention(tiny: Point) -> None:
    """A cache that drops tokens is declared as one, with its window, and no other is."""
    model = onnx.load(tiny[0] / layout.ENGINE / layout.MODEL, load_external_data=False)
    key, value, other, _ = (cache.name for cache in tiny[1].caches)
    windows = {key: 6, value: 6}
    first(model, "GroupQueryAttention").attribute.extend(
        [helper.make_attribute("local_window_size", 6), helper.make_attribute("sliding_window_cache", 1)]
    )
    assert window_findings(model, replace(tiny[1], windows=windows)) == []
    assert window_findings(model, tiny[1]) == [f"{name} keeps a window of 6, declared is None" for name in (key, value)]
    assert window_findings(model, replace(tiny[1], windows=windows | {value: 7, other: 6})) == [
        f"{value} keeps a window of 6, declared is 7",
        f"{other} keeps a window of None, declared is 6",
    ]
