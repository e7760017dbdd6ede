"""The wrapper on many architectures: equal to the original, or refused by name."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from pipeline import wrap
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Model, section
from pipeline.model import decoder
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.runtime.torch import Torch
from tests.support.architectures import (
    ARCHITECTURES,
    ATTENTIONS,
    mostly_slow,
    random_model,
    small_llama,
    small_model,
    wider_model,
)
from tests.support.decoders import CACHE, GATES, failures
from tests.support.points import build_once

QUICK = ("llama", "gemma2", "phi3", "gpt2", "opt", "stablelm", "granite", "starcoder2")


@pytest.mark.parametrize(
    ("architecture", "logits"),
    [
        *(pytest.param(a, "last", marks=() if a in QUICK else pytest.mark.slow) for a in ARCHITECTURES),
        ("llama", "all"),
        pytest.param("gemma2", "all", marks=pytest.mark.slow),
    ],
)
def test_traced_wrapper_equals_the_original(architecture: str, logits: str, tmp_path: Path) -> None:
    """Every case of verify on the exported program, sliding windows and soft-capping included."""
    contract = build_once(tmp_path, [f"wrap.logits={logits}"], wrap, model=random_model(architecture))
    runtime = Torch.load(tmp_path / layout.WRAPPED / layout.PROGRAM, contract, Profiles.of_axes(contract))
    answers = ReferenceAnswers(Reference(loading.load(section(Model, tmp_path), tmp_path)), contract, seed=0)
    cases = catalog(runtime.profiles, CACHE)
    assert len(cases) == 13
    failures = {c.name: failed for c in cases if (failed := run_case(c, runtime, answers, GATES).failures)}
    assert not failures


@pytest.mark.parametrize("architecture", mostly_slow(ATTENTIONS, "granite_swa", "llama4_text", "gemma4_text"))
def test_decoder_equals_the_original(architecture: str) -> None:
    """Every case of verify on the decoder as it is, for what attention may have beyond the models above."""
    assert not failures(small_model(architecture), small_model(architecture))


def test_attention_of_an_unknown_form_is_refused() -> None:
    """With the operation that has no place in kvforge::attend."""
    model = wider_model("bloom")
    given = inputs(model, 0)
    model.transformer.h[1].self_attention.attention_dropout = torch.nn.Tanh()
    with pytest.raises(UserError, match=r"BloomForCausalLM cannot .* with tanh on its scores"):
        decoder.Decoder(model, "last")(*given)


def inputs(model: PreTrainedModel, slot: int) -> tuple[Any, ...]:
    """Two rows of three tokens for an empty cache, written from `slot` on; the second row has one token."""
    past = [torch.zeros(2, *shape) for layer in decoder.cache_shapes(model, CACHE) for shape in layer.values()]
    ids, mask = torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    return ids, mask, torch.arange(3).expand(2, 3), torch.full((2,), slot), past


def test_decoders_within_and_beside_each_other() -> None:
    """A decoder that runs in the middle of another one's forward, and two in threads, give what each gives alone."""
    one, other = small_llama(1), small_llama(2)
    first, second = inputs(one, 0), inputs(other, 5)
    outer, inner = decoder.Decoder(one, "last"), decoder.Decoder(other, "all")
    given = {outer: first, inner: second}
    with torch.inference_mode():
        alone = {each: each(*given[each]) for each in given}
        nested = []
        with one.model.layers[1].register_forward_pre_hook(lambda *_: nested.append(inner(*second))):
            within = outer(*first)
        assert len(nested) == 1
    barrier = Barrier(2)

    def meet(*_: Any) -> None:
        barrier.wait(60)

    def run(each: decoder.Decoder) -> Any:
        with torch.inference_mode(), each.model.model.layers[1].register_forward_pre_hook(meet):
            return each(*given[each])

    with ThreadPoolExecutor(2) as threads:
        beside = dict(zip(given, threads.map(run, given), strict=True))
    for each, results in ((outer, within), (inner, nested[0]), *beside.items()):
        torch.testing.assert_close(results, alone[each], rtol=0, atol=0)


def test_a_dropped_decoder_leaves_nothing() -> None:
    """transformers' tables do not grow, the model has no hooks, and decoder and model leave memory."""
    tables = (AttentionInterface(), AttentionMaskInterface())
    before = [len(table) for table in tables]
    model = small_llama(0)
    given = inputs(model, 0)
    for _ in range(2):
        one = decoder.Decoder(model, "last")
        one(*given)
    assert [len(table) for table in tables] == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    left = [weakref.ref(one), weakref.ref(model)]
    del one, model
    gc.collect()
    assert [reference() for reference in left] == [None, None]


def test_logits_at_padding_are_zero() -> None:
    """With logits "all", what stands at padded positions is exactly 0."""
    model = small_llama(0)
    given = inputs(model, 0)
    with torch.no_grad():
        logits, _ = decoder.Decoder(model, "all")(*given)
    assert (logits[1, 1:] == 0).all()
    assert (logits[1, 0] != 0).any()
