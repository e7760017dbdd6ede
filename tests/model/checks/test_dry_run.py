"""dry_run: attention of its own is found without weights, on the meta device and where the forward asks for numbers."""

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from benchmarks.coverage.configurations import tiny
from pipeline.checkpoint import loading
from pipeline.core.errors import Refusal, UserError
from pipeline.core.schema import Model, Source
from pipeline.core.tables.refusals import Category
from pipeline.model import decoder
from pipeline.model.checks import dry_run
from pipeline.model.refusals import unsupported


def empty(architecture: str) -> PreTrainedModel:
    """A model on the meta device."""
    model = Model(source=Source.random, architecture=architecture, config=tiny(architecture))
    built = loading.empty_model(model, Path(), loading.configuration(model, Path()))
    assert built is not None
    return built


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2"])
def test_what_can_be_built(architecture: str) -> None:
    """No refusal."""
    assert dry_run.refusal(empty(architecture)) is None


def test_what_the_decoder_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the decoder's."""
    monkeypatch.setattr(decoder, "adapt", lambda _: (_ for _ in ()).throw(unsupported("TinyLM", "it is odd")))
    error = dry_run.refusal(empty("llama"))
    assert isinstance(error, UserError)
    (problem,) = error.problems
    assert isinstance(problem, Refusal)
    assert problem.category == Category.ATTENTION


@pytest.mark.parametrize("architecture", ["mixtral", "marian", "xlm"])
def test_what_needs_numbers(architecture: str) -> None:
    """What does not run on the meta device runs on the CPU; only XLM's attention is refused."""
    model = empty(architecture)
    with pytest.raises(RuntimeError, match=r"meta|grouped_mm|BF16"):
        dry_run._refusal(model, "meta")
    error = dry_run.refusal(model)
    assert (error is None) == (architecture != "xlm")
    assert error is None or "it writes attention out by itself" in str(error)


def test_what_needs_numbers_and_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried: the run with its weights tells."""
    monkeypatch.setattr(dry_run, "LARGEST", 1000)
    assert dry_run.refusal(empty("xlm")) is None


@pytest.mark.parametrize("architecture", ["idefics", "kosmos-2"])
def test_what_does_not_run_on_text_alone(architecture: str) -> None:
    """Its forward asks for an image."""
    error = dry_run.refusal(empty(architecture))
    assert isinstance(error, UserError)
    (problem,) = error.problems
    assert isinstance(problem, Refusal)
    assert problem.category == Category.INPUTS
    assert "pixel_values" in problem.what
