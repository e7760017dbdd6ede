"""pipeline.sensitivity: a correct program of any model passes, and a damaged one fails, however sensitive it is."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from pipeline import checkpoint, decoder, sensitivity
from pipeline.cases import catalog
from pipeline.compare import Limits, Truth, limits, run_case
from pipeline.errors import UserError
from pipeline.reference import Reference
from pipeline.run_torch import Torch
from pipeline.session import axes_bounds
from pipeline.signature import DTYPES, contract
from pipeline.spec import Gates, Model, Source
from pipeline.wrap import trace
from tests.architectures import ARCHITECTURES
from tests.points import composed

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
    model = checkpoint.load(Model(source=Source.random, architecture="qwen2", config=config), None)
    with torch.no_grad():
        change(model)
    return model


def failures(config: dict[str, Any], change: Change, compute: str, damage: Change) -> tuple[list[str], Limits]:
    """What every case finds in the program of a damaged copy, with the gates of its precision."""
    reference = Reference(original(config, change))
    wrapped = original(config, change)
    damage(wrapped)
    layers = decoder.cache_shapes(wrapped, CACHE)
    signature = contract(layers, config["vocab_size"], compute, "last", {"batch": 4, "sequence": 32})
    program = trace(decoder.Decoder(wrapped.to(getattr(torch, DTYPES[compute])), "last").eval(), signature)
    verify = composed([f"precision={compute}", "engine=tensorrt_rtx"])["verify"]
    measured = sensitivity.measure(reference, DTYPES[compute], config["vocab_size"], 0)
    least = {name: verify["headroom"] * value for name, value in asdict(measured).items()}
    held = limits(Gates(**verify["gates"]), least=least)
    truth = Truth(reference, signature, seed=0)
    runtime = Torch(program, signature, axes_bounds(signature))
    return [f for case in catalog(runtime.bounds, CACHE) for f in run_case(case, runtime, truth, held).failures], held


@pytest.mark.parametrize("damaged", [False, True], ids=["sound", "damaged"])
@pytest.mark.parametrize(
    ("config", "factor", "compute"),
    [
        (ARCHITECTURES["qwen2"], 300, "fp32"),
        (ARCHITECTURES["qwen2"], 300, "fp16"),
        (DEEP, 1000, "fp32"),
        (ARCHITECTURES["qwen2"], 1, "fp32"),
        (ARCHITECTURES["qwen2"], 1, "fp16"),
        (ARCHITECTURES["qwen2"], 1, "bf16"),
    ],
)
def test_gates_fit_the_model(config: dict[str, Any], factor: float, compute: str, damaged: bool) -> None:
    """Large keys, in 32 and in 16 bits: the program passes as it is, and with one channel lost it fails."""
    found, _ = failures(config, biased(factor), compute, weight_off if damaged else lambda _: None)
    assert bool(found) == damaged, found[:3]


def test_gates_of_a_model_that_is_not_sensitive_stay_as_they_are() -> None:
    """In fp32 nothing of a plain model is widened."""
    _, held = failures(ARCHITECTURES["qwen2"], lambda _: None, "fp32", lambda _: None)
    assert not any("widened" in limit.key for limit in held.values())


def test_an_original_that_is_not_finite() -> None:
    """Nothing can be held against it, and it is said before any case runs."""

    def broken(model: PreTrainedModel) -> None:
        model.model.norm.weight.data[3] = float("nan")

    with pytest.raises(UserError, match="the original model's own answers, in fp32, are not finite"):
        sensitivity.measure(Reference(original(ARCHITECTURES["qwen2"], broken)), "float32", 128, 0)


def test_it_is_the_same_in_every_run() -> None:
    """For one seed; and more bits are less rounding."""
    reference = Reference(original(ARCHITECTURES["qwen2"], lambda _: None))
    one, same = (sensitivity.measure(reference, "float16", 128, 0) for _ in range(2))
    assert one == same
    finer = sensitivity.measure(reference, "float32", 128, 0)
    coarser = sensitivity.measure(reference, "bfloat16", 128, 0)
    for name, value in asdict(one).items():
        assert 0 < asdict(finer)[name] < value < asdict(coarser)[name]
