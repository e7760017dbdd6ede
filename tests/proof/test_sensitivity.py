"""sensitivity: a correct program of any model passes, and a damaged one fails, however sensitive it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline.checkpoint import loading
from pipeline.core.contract import contract_for
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Gates, Model, Source
from pipeline.core.tables.dtypes import COMPUTE
from pipeline.model import decoder
from pipeline.model.cast import cast
from pipeline.model.tracing import trace
from pipeline.proof import sensitivity
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.proof.results import Result, limits
from pipeline.runtime.torch import Torch
from tests.support.architectures import ARCHITECTURES
from tests.support.points import composed

Change = Callable[[PreTrainedModel], None]
CACHE = 64
# As a real Qwen2.5 of 0.5 B, whose keys have biases of several hundred: eight layers, in which an error of the last bit
# of a score grows to a thousandth of the logits.
DEEP = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,
}


def biased(factor: float) -> Change:
    """Keys whose bias is so many times as large."""

    def change(model: PreTrainedModel) -> None:
        for layer in model.model.layers:
            layer.self_attn.k_proj.bias.data.mul_(factor)

    return change


def weight_off(model: PreTrainedModel) -> None:
    """One channel of the second layer's last product is lost."""
    model.model.layers[1].mlp.down_proj.weight.data[5] = 0


def original(config: dict[str, Any], change: Change) -> PreTrainedModel:
    """A Qwen2 with random weights, changed."""
    model = loading.load(Model(source=Source.random, architecture="qwen2", config=config), None)
    with torch.no_grad():
        change(model)
    return model


def run(config: dict[str, Any], change: Change, compute: str, damage: Change) -> list[Result]:
    """Every case of the program of a damaged copy, with the gates of its precision."""
    reference = Reference(original(config, change))
    wrapped = original(config, change)
    damage(wrapped)
    layers = decoder.cache_shapes(wrapped, CACHE)
    contract = contract_for(layers, config["vocab_size"], compute, "last", {"batch": 4, "sequence": 32})
    program = trace(decoder.Decoder(cast(wrapped, getattr(torch, COMPUTE[compute].name)), "last").eval(), contract)
    verify = composed([f"precision={compute}", "engine=tensorrt_rtx"])["verify"]
    answers = ReferenceAnswers(reference, contract, seed=0, headroom=verify["headroom"])
    runtime, held = Torch(program, contract, Profiles.of_axes(contract)), limits(Gates(**verify["gates"]))
    return [run_case(case, runtime, answers, held) for case in catalog(runtime.profiles, CACHE)]


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
@pytest.mark.parametrize(
    ("config", "factor", "compute"),
    [
        (ARCHITECTURES["qwen2"], 300, "fp32"),
        pytest.param(ARCHITECTURES["qwen2"], 300, "fp16", marks=pytest.mark.slow),
        pytest.param(DEEP, 1000, "fp32", marks=pytest.mark.slow),
        pytest.param(ARCHITECTURES["qwen2"], 1, "fp32", marks=pytest.mark.slow),
        (ARCHITECTURES["qwen2"], 1, "fp16"),
        pytest.param(ARCHITECTURES["qwen2"], 1, "bf16", marks=pytest.mark.slow),
    ],
)
def test_gates_fit_the_model(config: dict[str, Any], factor: float, compute: str, damaged: bool) -> None:
    """Large keys, in 32 and in 16 bits: the program passes as it is, and with one channel lost it fails."""
    results = run(config, biased(factor), compute, weight_off if damaged else lambda _: None)
    found = [failure for result in results for failure in result.failures]
    assert bool(found) == damaged, found[:3]


def test_gates_of_a_model_that_is_not_sensitive_stay_as_they_are() -> None:
    """In fp32 no row of a plain model comes near one."""
    assert not any(result.widened for result in run(ARCHITECTURES["qwen2"], lambda _: None, "fp32", lambda _: None))


def test_an_original_that_is_not_finite() -> None:
    """Nothing can be compared with it, and the error comes before any case runs."""

    def broken(model: PreTrainedModel) -> None:
        model.model.norm.weight.data[3] = float("nan")

    with pytest.raises(UserError, match="the original model's own answers, in fp32, are not finite"):
        sensitivity.check_finite(Reference(original(ARCHITECTURES["qwen2"], broken)), 128, 0)


def test_it_is_the_same_in_every_run_and_leaves_the_original_alone() -> None:
    """Fewer bits are more rounding; the answer without it is what it was, bit for bit."""
    reference = Reference(original(ARCHITECTURES["qwen2"], lambda _: None))
    tokens, positions = list(range(1, 9)), list(range(8))
    answer = reference.answer([], tokens, positions)
    measured = [
        sensitivity.measure(reference, [], tokens, positions, [], answer, dtype)
        for dtype in ("float32", "float16", "float16", "bfloat16")
    ]
    finer, one, same, coarser = measured
    assert one == same
    assert all(0 < finer[name] < one[name] < coarser[name] for name in one)
    again = reference.answer([], tokens, positions)
    assert all((a == b).all() for a, b in zip(again.caches, answer.caches, strict=True))
