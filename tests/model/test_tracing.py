"""What tracing leaves: one symbol for each axis whatever its size, and no operator that does nothing."""

from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core.contract import GraphContract, contract_for
from pipeline.core.errors import Refusal, UserError
from pipeline.core.schema import Model, section
from pipeline.core.tables.refusals import Category
from pipeline.model import decoder
from pipeline.model.tracing import trace
from pipeline.proof.interface import program_findings

ATEN = torch.ops.aten


@pytest.mark.parametrize("batch", [1, pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("sequence", [1, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4)), 32])
def test_axes_stay_symbolic_at_every_size(tiny: tuple[Path, GraphContract], batch: int, sequence: int) -> None:
    """Also an axis of a single size: no finding, which means one symbol for each axis on all inputs and outputs."""
    model = loading.load(section(Model, tiny[0]), tiny[0])
    layers = decoder.cache_shapes(model, 64)
    contract = contract_for(layers, 512, "fp32", "last", {"batch": batch, "sequence": sequence})
    assert program_findings(trace(decoder.Decoder(model, "last").eval(), contract), contract) == []


def test_nothing_but_the_model_s_own_operators(tiny: tuple[Path, GraphContract]) -> None:
    """The program holds no assertion of the tracer, no cast to a tensor's own type, no stack and no example."""
    folder, contract = tiny
    model = loading.load(section(Model, folder), folder)
    decoder.cache_shapes(model, contract.cache_size)
    wrapped = decoder.Decoder(model, "last").eval()
    program = trace(wrapped, contract)
    assert program.example_inputs is None
    nodes = list(program.graph.nodes)
    assert not [node for node in nodes if "stack_trace" in node.meta]
    targets = {node.target for node in nodes}
    assert ATEN._assert_tensor_metadata.default not in targets
    assert not any(isinstance(target, torch._ops.HigherOrderOperator) for target in targets)
    casts = [node for node in nodes if node.target in (ATEN.to.dtype, ATEN.to.device)]
    assert [node for node in casts if node.meta["val"].dtype == node.args[0].meta["val"].dtype] == []
    ids = torch.tensor([[1, 2, 3, 4]])
    past = [torch.zeros(t.sized(batch=1)) for t in contract.caches]
    arguments = (ids, torch.ones_like(ids), torch.arange(4)[None], torch.zeros(1, dtype=torch.int64), past)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(*arguments), wrapped(*arguments))


def test_a_size_that_depends_on_numbers_is_refused(tiny: tuple[Path, GraphContract]) -> None:
    """With the operator and its module: such a graph has axes that no artifact declares."""
    folder, contract = tiny
    model = loading.load(section(Model, folder), folder)
    decoder.cache_shapes(model, contract.cache_size)

    def chosen(_module: torch.nn.Module, _args: object, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + hidden[hidden > 0].sum()

    model.model.norm.register_forward_hook(chosen)
    with pytest.raises(UserError) as raised:
        trace(decoder.Decoder(model, "last").eval(), contract)
    (problem,) = raised.value.problems
    assert isinstance(problem, Refusal)
    assert problem.category == Category.TRACING
    assert "the size of aten.index.Tensor's result depends on numbers" in problem.what
    assert problem.where == "module model.model.norm"
