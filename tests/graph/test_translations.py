"""Translations: the operators that torch.onnx has none for, and fewer nodes where it writes too many."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from pipeline.graph.attention import AttentionForm, Sink
from pipeline.graph.translations import TRANSLATIONS
from pipeline.model import operators  # noqa: F401  # registers the operators
from pipeline.model.operators import INTERLEAVED, Activation
from tests.support.experts import Mixture, choice

BATCH, SEQUENCE = torch.export.Dim("batch", max=8), torch.export.Dim("sequence", max=8)


class Views(torch.nn.Module):
    """A linear layer's output as heads and back, a slice, a mean and a cast."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        half = heads[..., :2].to(torch.float64).mean(-1, keepdim=True)
        return half.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)


class Parts(torch.nn.Module):
    """Parts of one size, the last shorter; of one size; of given sizes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, _, rest = x.split(3, -1)
        low, high = x.split(4, -1)
        one, two = x.split([2, 6], -1)
        return torch.cat([rest, high, one, low, two, first], -1)


class Rows(torch.nn.Module):
    """Rows of an axis in the middle by a list, as Falcon takes its keys; places by two lists, the general form."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., [-2, 0], :].sum(2) + x[:, :, [1, 2], [0, 0]].sum(2, keepdim=True)


class Attends(torch.nn.Module):
    """New keys go into a cache, and queries attend over it."""

    def __init__(self, masked: bool, sinks: bool = False) -> None:
        super().__init__()
        self.masked, self.sinks = masked, torch.tensor([-3.0, 0.0, 1.0, 4.0]) if sinks else None

    def forward(
        self, query: torch.Tensor, cache: torch.Tensor, new: torch.Tensor, position: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        keys = torch.ops.kvforge.scatter(cache, new, position)
        length = position + query.shape[2]
        own = mask if self.masked else None
        return torch.ops.kvforge.attend(query, keys, keys, length, own, 0.5, 0.0, self.sinks)


def exported(module: torch.nn.Module, args: tuple[torch.Tensor, ...], axes: tuple[dict[int, object], ...]) -> ir.Model:
    """The module's graph."""
    program = torch.export.export(module, args, dynamic_shapes=axes)
    made = torch.onnx.export(
        program, dynamo=True, opset_version=24, optimize=False, verbose=False, custom_translation_table=TRANSLATIONS
    )
    assert made is not None
    return made.model


def run(model: ir.Model, *args: torch.Tensor) -> np.ndarray:
    """The output in onnx's reference evaluator, at other sizes than those exported with."""
    proto = ir.to_proto(model)
    feeds = dict(zip((value.name for value in proto.graph.input), (a.numpy() for a in args), strict=True))
    (out,) = ReferenceEvaluator(proto).run(None, feeds)
    return np.asarray(out)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_shapes_and_bounds_are_constants() -> None:
    """No node computes a shape that is known: views, slices, means and casts are one node each."""
    axes = ({0: BATCH, 1: SEQUENCE},)
    model = exported(Views(), (torch.randn(2, 3, 8),), axes)
    found = [node.op_type for node in model.graph]
    assert found.count("Reshape") == 2
    assert not {"Concat", "Gather"} & set(found)
    x = torch.randn(4, 5, 8)
    np.testing.assert_allclose(run(model, x), Views()(x).numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_parts_are_no_sequences() -> None:
    """One Split for equal parts, a Slice for each other one that is read."""
    model = exported(Parts(), (torch.randn(2, 3, 8),), ({0: BATCH, 1: SEQUENCE},))
    found = [node.op_type for node in model.graph]
    assert not [op for op in found if "Sequence" in op]
    assert (found.count("Split"), found.count("Slice")) == (1, 4)
    x = torch.randn(4, 5, 8)
    np.testing.assert_array_equal(run(model, x), Parts()(x).numpy())


@pytest.mark.filterwarnings("ignore")
def test_rows_of_one_axis_are_gathered() -> None:
    """Without GatherND and transposes, as long as it is one axis."""
    model = exported(Rows(), (torch.randn(2, 3, 5, 8),), ({0: BATCH, 1: SEQUENCE},))
    gathers = [node.attributes["axis"].value for node in model.graph if node.op_type == "Gather"]
    assert gathers.count(2) == 1
    x = torch.randn(4, 5, 5, 8)
    np.testing.assert_allclose(run(model, x), Rows()(x).numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sinks", [False, True])
def test_attention_has_one_of_the_two_forms(masked: bool, sinks: bool) -> None:
    """Causal with lengths, or a mask alone, over a cache that TensorScatter writes; a sink changes neither form, and
    onnx's own evaluator gives what PyTorch does."""
    sizes = {"query": (2, 4, 3, 8), "cache": (2, 2, 16, 8), "new": (2, 2, 3, 8)}
    query, cache, new = (torch.randn(size) for size in sizes.values())
    position, mask = torch.tensor([0, 5]), torch.rand(2, 1, 3, 16) > 0.3
    mask &= torch.arange(16) < 3  # of both rows' used slots
    mask[..., 0] = True  # a token that sees no slot has no answer
    axes = tuple({0: BATCH} | ({2: SEQUENCE} if i in (0, 2, 4) else {}) for i in range(5))
    module, args = Attends(masked, sinks), (query, cache, new, position, mask)
    model = exported(module, args, axes)
    (attention,) = (node for node in model.graph if node.op_type == "Attention")
    form = AttentionForm.of(attention)
    assert (form.is_portable, form.is_causal, form.scale(8)) == (True, not masked, 0.5)
    assert (form.other_attributes, form.other_inputs) == ({}, {})
    assert (Sink.of(attention) is not None) == sinks
    (scatter,) = (node for node in model.graph if node.op_type == "TensorScatter")
    assert (scatter.attributes["axis"].value, scatter.attributes["mode"].value) == (2, "linear")
    np.testing.assert_allclose(run(model, *args), module(*args).numpy(), atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_experts_are_one_node() -> None:
    """With the operator's arguments by name, until graph.experts replaces it."""
    mixture = Mixture(Activation(INTERLEAVED, "silu", 1.702, 7.0, False, 1.0), transposed=True)
    tokens = torch.export.Dim("tokens", max=512)
    (node,) = exported(mixture, choice(3), ({0: tokens},) * 3).graph
    assert (node.op_type, node.domain) == ("Experts", "kvforge")
    found = {name: attr.value for name, attr in node.attributes.items()}
    assert found.pop("alpha") == pytest.approx(1.702)
    wanted = {"transposed": 1, "layout": INTERLEAVED, "function": "silu", "limit": 7.0, "limit_after": 0, "shift": 1.0}
    assert found == wanted
    assert [value and value.name for value in node.inputs[:5]] == ["hidden", "indices", "weights", "up", "down"]
