"""The wrapper on many architectures: equal to the original, or refused by name."""

from typing import Any

import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core.contract import contract_for
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Gates, Model, Source
from pipeline.model import decoder
from pipeline.proof.cases import catalog
from pipeline.proof.compare import Truth, run_case
from pipeline.proof.reference import Reference
from pipeline.proof.results import limits
from pipeline.runtime.torch import Torch
from pipeline.wrap import trace
from tests.support.architectures import ARCHITECTURES, LAYERS, SMALL

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2}, "cache"),
    "bloom": ({"vocab_size": 128, "hidden_size": 32, "n_layer": 2, "n_head": 4}, "AttentionInterface"),
    "gpt_oss": (SMALL | LAYERS | {"num_local_experts": 4}, "s_aux"),
}
GATES = limits(Gates(logits_error=1e-4, kl=1e-8, cache_error=1e-4, greedy_agreement=1.0))
AXES = {"batch": 4, "sequence": 32}
CACHE = 64


@pytest.mark.parametrize(
    ("architecture", "logits"), [*((a, "last") for a in ARCHITECTURES), ("llama", "all"), ("gemma2", "all")]
)
def test_traced_wrapper_equals_the_original(architecture: str, logits: str) -> None:
    """Every case of verify on the exported program, sliding windows and soft-capping included."""
    model = Model(source=Source.random, architecture=architecture, config=ARCHITECTURES[architecture])
    original, other = (loading.load(model, None) for _ in range(2))
    layers = decoder.cache_shapes(original, CACHE)
    contract = contract_for(layers, 128, "fp32", logits, AXES)
    program = trace(decoder.Decoder(other, logits).eval(), contract)
    runtime = Torch(program, contract, Profiles.of_axes(contract))
    truth = Truth(Reference(original), contract, seed=0)
    cases = catalog(runtime.profiles, CACHE)
    assert len(cases) == 13
    failures = {c.name: failed for c in cases if (failed := run_case(c, runtime, truth, GATES).failures)}
    assert not failures


@pytest.mark.parametrize("architecture", REFUSED)
def test_unfit_architectures_are_refused(architecture: str) -> None:
    """A model without a static cache of keys and values is an error that says what is missing."""
    config, why = REFUSED[architecture]
    original = loading.load(Model(source=Source.random, architecture=architecture, config=config), None)

    def refuse() -> None:
        layers = decoder.cache_shapes(original, CACHE)
        trace(decoder.Decoder(original, "last"), contract_for(layers, 128, "fp32", "last", AXES))

    with pytest.raises(UserError, match=why):
        refuse()


def test_logits_at_padding_are_zero() -> None:
    """With logits "all", what stands at padded positions is exactly 0."""
    model = loading.load(Model(source=Source.random, architecture="llama", config=SMALL), None)
    past = [torch.zeros(2, *shape) for layer in decoder.cache_shapes(model, CACHE) for shape in layer]
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    with torch.no_grad():
        wrapped = decoder.Decoder(model, "all")
        ids = torch.ones(2, 3, dtype=torch.int64)
        logits, _ = wrapped(ids, mask, torch.arange(3).expand(2, 3), torch.zeros(2, dtype=torch.int64), past)
    assert (logits[1, 1:] == 0).all()
    assert (logits[1, 0] != 0).any()
