"""failures: what a model's own code raises is refused, with the module that raised it."""

import pytest
import torch
from torch import nn

from pipeline.core.errors import Problem, Refusal, UserError
from pipeline.core.tables.refusals import Category
from pipeline.model.checks.failures import refused


class Broken(nn.Module):
    """A layer whose forward raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise self.error


def run(error: Exception) -> None:
    """Run a model whose second layer raises."""
    model = nn.Sequential(nn.Identity(), nn.Sequential(Broken(error)))
    with refused(model, "TinyLM", "its forward fails"):
        model(torch.zeros(1))


def test_the_module_and_the_first_line() -> None:
    """Of the innermost module; the exception itself stays as the cause."""
    with pytest.raises(UserError) as raised:
        run(ValueError("no such size\nand more"))
    (problem,) = raised.value.problems
    assert isinstance(problem, Refusal)
    assert problem.category == Category.TRACING
    assert problem.what == "TinyLM: its forward fails: ValueError: no such size"
    assert problem.where == "module 1.0"
    assert isinstance(raised.value.__cause__, ValueError)


@pytest.mark.parametrize("error", [UserError(Problem("a", "b", "c")), MemoryError(), OSError(28, "No space left")])
def test_what_is_not_the_model_s_fault(error: Exception) -> None:
    """Problems stay as they are, as do a full disk and too little memory."""
    with pytest.raises(type(error)) as raised:
        run(error)
    assert raised.value is error


def test_one_class_of_errors() -> None:
    """Others pass through."""
    with pytest.raises(RuntimeError, match="full"), refused(nn.Identity(), "TinyLM", "it fails", NotImplementedError):
        raise RuntimeError("the disk is full")


def test_outside_of_any_module() -> None:
    """The whole model is named."""
    with pytest.raises(UserError, match="where: model"), refused(nn.Identity(), "TinyLM", "it cannot be traced"):
        raise TypeError
