"""Functions of transformers that are replaced: found by their names, in this model's modules only."""

import pytest
from transformers import PreTrainedModel

from benchmarks.coverage.configurations import tiny
from pipeline.checkpoint import loading
from pipeline.core.schema import Model, Source
from pipeline.model.states.recurrences import keep_states, known_layers, recurrences


def made(kind: str) -> PreTrainedModel:
    """A tiny model with random weights."""
    return loading.load(Model(source=Source.random, architecture=kind, config=tiny(kind), seed=0), None)


@pytest.mark.parametrize(
    ("kind", "found", "known"),
    [
        ("qwen3_next", {0: "torch_chunk_gated_delta_rule", 2: "torch_chunk_gated_delta_rule"}, {0, 2}),
        ("falcon_h1", {0: "mamba2_chunk_scan", 1: "mamba2_chunk_scan"}, {0, 1}),
        ("jamba", {0: "mamba_selective_scan", 2: "mamba_selective_scan"}, {0, 2}),
        ("lfm2", {}, {0, 2}),  # convolutions alone
        ("llama", {}, set()),
    ],
)
def test_found(kind: str, found: dict[int, str], known: set[int]) -> None:
    """By layer."""
    model = made(kind)
    assert {index: name for index, _, name in recurrences(model)} == found
    assert known_layers(model) == known


def test_only_this_models_modules_change() -> None:
    """Another model of the same class keeps its forward, as does the class."""
    one, other = made("mamba"), made("mamba")
    (_, mixer, _), *_ = recurrences(one)
    before = type(mixer).forward
    keep_states(one)
    assert "forward" in vars(mixer)
    assert type(mixer).forward is before
    assert not any("forward" in vars(module) for _, module, _ in recurrences(other))
