"""Limits of position: decided once, refused above what a model holds, and every row as if it were alone."""

import contextlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import AttentionMaskInterface, PreTrainedModel

from pipeline import wrap
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract, contract_for
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Model, Source
from pipeline.model import attention, decoder, positions
from pipeline.model.cache import running
from pipeline.model.tracing import trace
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.reference import Reference
from pipeline.runtime.torch import Torch
from tests.support.architectures import ARCHITECTURES, LAYERS, SMALL
from tests.support.gates import held
from tests.support.points import composed, write_point

GATES = held(logits_error=1e-4, kl=1e-8, cache_error=1e-4)
AXES = {"batch": 4, "sequence": 32}
CACHE = 64
HALF = 8  # rotary frequencies of SMALL: half of a head
LONGROPE: dict[str, Any] = SMALL | {
    "max_position_embeddings": 128,
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * i for i in range(HALF)],
        "long_factor": [2.0 + i for i in range(HALF)],
        "original_max_position_embeddings": 32,
    },
}
SCALED: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "proportional": {"partial_rotary_factor": 0.5},
}


def loaded(architecture: str, config: dict[str, Any]) -> PreTrainedModel:
    """The original model, with random weights."""
    return loading.load(Model(source=Source.random, architecture=architecture, config=config), None)


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """A configuration with this type of rope."""
    return SMALL | {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


def by_hand(factors: list[float] | None = None) -> torch.Tensor:
    """1 / (factor * theta^(2i/d)), in the order of rounding that transformers has."""
    powers = 10000.0 ** (torch.arange(0, 2 * HALF, 2, dtype=torch.float32) / (2 * HALF))
    return 1.0 / (powers if factors is None else torch.tensor(factors) * powers)


def frequencies(model: PreTrainedModel) -> torch.Tensor:
    """Those of the model's only rotary module."""
    (found,) = positions.rotaries(model)
    return found.frequencies


def failed(architecture: str, config: dict[str, Any], freeze: bool = True) -> dict[str, list[str]]:
    """The cases that the exported program fails against the original, by name.

    The 13 usual ones are left to tests/test_decoder.py, which runs them for all architectures, but for scaled ropes.
    """
    original, other = (loaded(architecture, config | {"num_hidden_layers": 2}) for _ in range(2))
    for model in (original, other) if freeze else ():
        positions.freeze(model, CACHE)
    layers = decoder.cache_shapes(original, CACHE)
    contract = contract_for(layers, 128, "fp32", "last", AXES, positions.limits(original.config))
    runtime = Torch(trace(decoder.Decoder(other, "last").eval(), contract), contract, Profiles.of_axes(contract))
    answers = ReferenceAnswers(Reference(original), contract, seed=0)
    cases = catalog(runtime.profiles, CACHE, contract.limits)
    assert len(cases) == 13 + len(contract.limits)
    if "rope_parameters" not in config:
        cases = cases[13:]
    results = {case.name: run_case(case, runtime, answers, GATES).failures for case in cases}
    return {name: failures for name, failures in results.items() if failures}


@pytest.mark.parametrize(("cache", "factors"), [(64, "long_factor"), (33, "long_factor"), (32, "short_factor")])
def test_longrope_is_decided_by_the_cache(cache: int, factors: str) -> None:
    """Frequencies equal the formula with the chosen factors, whatever the batch's longest row, and a note says so."""
    model = loaded("phi3", LONGROPE)
    (note,) = positions.freeze(model, cache)
    assert factors.removesuffix("_factor") in note
    assert f"cache.size={cache}" in note
    assert "=32" in note
    want = by_hand(LONGROPE["rope_parameters"][factors])
    for length in (2, 60):
        with torch.no_grad():
            model(input_ids=torch.ones(1, length, dtype=torch.int64))
        assert torch.equal(frequencies(model), want)
    assert positions.wrong_frequencies(model, cache) == []


def test_phimoe_scales_by_the_cache_too() -> None:
    """Its longrope multiplies cos and sin by a number of its own for long texts."""
    parameters = LONGROPE["rope_parameters"] | {"short_mscale": 1.5, "long_mscale": 2.5}
    model = loaded("phimoe", LONGROPE | {"rope_parameters": parameters, "num_local_experts": 2})
    positions.freeze(model, CACHE)
    (rotary,) = positions.rotaries(model)
    cos, _ = rotary.module(torch.zeros(1), torch.tensor([[0, 7]]))
    want = 2.5 * torch.cos(7 * by_hand(parameters["long_factor"]))
    assert torch.allclose(cos[0, 0], torch.tensor(2.5))
    assert torch.allclose(cos[0, 1, :HALF], want)


LIMITED = {
    "phi3": LONGROPE,
    "mistral": ARCHITECTURES["mistral"],
    "gemma2": ARCHITECTURES["gemma2"] | {"layer_types": LAYERS["layer_types"][:2]},
    "gemma3_text": ARCHITECTURES["gemma3_text"] | {"layer_types": LAYERS["layer_types"][:2]},
    "llama": rope("dynamic", factor=2.0) | {"max_position_embeddings": CACHE},
}


@pytest.mark.parametrize("architecture", LIMITED)
def test_rows_do_not_depend_on_each_other(architecture: str) -> None:
    """Rows on both sides of each limit, in one batch and crossing it, equal the original that runs each alone."""
    assert failed(architecture, LIMITED[architecture]) == {}


@pytest.mark.filterwarnings("ignore:The tensor attribute self.model.model.rotary_emb.long_inv_freq:UserWarning")
def test_a_choice_by_the_longest_row_is_caught() -> None:
    """longrope as transformers has it, decided in each forward."""
    assert "both sides of position 32" in failed("phi3", LONGROPE, freeze=False)


def test_a_mask_by_the_first_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding window that is placed by row 0's position, for all rows."""

    def planted(batch_size: int, *args: Any, **kwargs: Any) -> torch.Tensor | None:
        cache = running.get()
        with patch.object(cache, "position", cache.position[:1].expand(batch_size)):
            return attention._mask(batch_size, *args, **kwargs)

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, attention.IMPLEMENTATION, planted)
    assert "both sides of position 6" in failed("mistral", ARCHITECTURES["mistral"])


def test_dynamic_rope_is_plain_up_to_its_limit() -> None:
    """Frequencies of a plain rope at every length that the cache holds; both numbers named above it."""
    config = rope("dynamic", factor=2.0) | {"max_position_embeddings": 32}
    model = loaded("llama", config)
    assert positions.freeze(model, 32) == []
    with torch.no_grad():
        model(input_ids=torch.ones(1, 40, dtype=torch.int64))
    assert torch.equal(frequencies(model), by_hand())
    assert positions.wrong_frequencies(model, 32) == []
    with pytest.raises(UserError, match=r"cache.size=64 exceeds max_position_embeddings=32"):
        positions.freeze(loaded("llama", config), 64)


def test_dynamic_rope_by_alpha() -> None:
    """Hunyuan raises the base once and for all: theta * alpha^(d / (d - 2))."""
    config = rope("dynamic", factor=1.0, alpha=50.0) | {"max_position_embeddings": 32}
    model = loaded("hunyuan_v1_dense", config)
    positions.freeze(model, 32)
    theta = 10000.0 * 50.0 ** (2 * HALF / (2 * HALF - 2))
    want = 1.0 / theta ** (torch.arange(0, 2 * HALF, 2, dtype=torch.float32) / (2 * HALF))
    assert torch.equal(frequencies(model), want)
    assert positions.wrong_frequencies(model, 32) == []


@pytest.mark.parametrize("kind", SCALED)
def test_other_ropes_are_the_same_at_every_length(kind: str) -> None:
    """Frequencies of a fresh model, after a forward beyond every limit."""
    model = loaded("llama", rope(kind, **SCALED[kind]) | {"max_position_embeddings": 64})
    fresh = frequencies(model).clone()
    assert positions.freeze(model, 64) == []
    with torch.no_grad():
        model(input_ids=torch.ones(1, 100, dtype=torch.int64))
    assert torch.equal(frequencies(model), fresh)
    assert positions.wrong_frequencies(model, 64) == []
    if kind == "default":
        assert torch.equal(fresh, by_hand())


@pytest.mark.parametrize(
    ("architecture", "size", "table"),
    [("gpt2", "n_positions", "wpe"), ("opt", "max_position_embeddings", "embed_positions")],
)
def test_a_cache_beyond_the_table_of_positions_is_refused(architecture: str, size: str, table: str) -> None:
    """OPT's table has two rows more than positions; the last position that it holds is allowed."""
    config = ARCHITECTURES[architecture] | {size: 32}
    assert positions.freeze(loaded(architecture, config), 32) == []
    with pytest.raises(UserError, match=rf"cache.size=33 exceeds the 32 positions in the model's table .*{table}"):
        positions.freeze(loaded(architecture, config), 33)


def test_a_cache_beyond_alibi_is_refused() -> None:
    """MPT builds its slopes for max_seq_len slots."""
    config = {"d_model": 32, "n_heads": 4, "n_layers": 1, "vocab_size": 128, "max_seq_len": 32}
    assert positions.freeze(loaded("mpt", config), 32) == []
    with pytest.raises(UserError, match=r"cache.size=33 exceeds max_seq_len=32"):
        positions.freeze(loaded("mpt", config), 33)


def test_a_rotary_model_is_warned_of_a_long_cache() -> None:
    """Nothing breaks beyond the positions that it was trained on."""
    model = loaded("llama", SMALL | {"max_position_embeddings": 32})
    assert positions.freeze(model, 32) == []
    (note,) = positions.freeze(model, 64)
    assert "cache.size=64 is above the model's max_position_embeddings=32" in note


def test_wrap_keeps_notes_and_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, in wrapped/notes.json and in the contract; a refusal comes before anything is traced."""
    model = {"source": "random", "architecture": "phi3", "config": LONGROPE, "seed": 0}
    params = composed(["experiment=tiny"])
    write_point(tmp_path / "long", params | {"model": model})
    with contextlib.chdir(tmp_path / "long"):
        wrap.main()
    assert "warning: longrope: the long factors" in capsys.readouterr().err
    assert "the long factors" in (tmp_path / "long" / layout.WRAPPED / layout.NOTES).read_text()
    contract = GraphContract.load(tmp_path / "long" / layout.WRAPPED / layout.CONTRACT)
    assert contract.cache_size > 32
    assert contract.limits == (32,)
    small = {"source": "random", "architecture": "gpt2", "config": ARCHITECTURES["gpt2"] | {"n_positions": 32}}
    write_point(tmp_path / "short", params | {"model": small})
    with contextlib.chdir(tmp_path / "short"), pytest.raises(UserError, match="exceeds the 32 positions"):
        wrap.main()


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (SMALL, ()),
        (ARCHITECTURES["mistral"], (6,)),
        (LONGROPE | {"sliding_window": 20}, (20, 32)),
        (SMALL | {"sliding_window": None}, ()),
    ],
)
def test_limits_of_a_configuration(config: dict[str, Any], limits: tuple[int, ...]) -> None:
    """Windows and the longrope switch, in order."""
    architecture = "phi3" if "rope_parameters" in config else "mistral" if "sliding_window" in config else "llama"
    assert positions.limits(loaded(architecture, config | {"num_hidden_layers": 1}).config) == limits


def test_other_frequencies_are_a_problem_of_their_module() -> None:
    """A wrong base, one number 2 ulp off, 16 bits, NaN: each is named."""

    def planted(change: Any) -> list[str]:
        model = loaded("llama", SMALL)
        rotary = model.model.rotary_emb
        assert isinstance(rotary, nn.Module)
        rotary.inv_freq = change(rotary.inv_freq.clone())
        return [problem.where for problem in positions.wrong_frequencies(model, CACHE)]

    def two_ulp(values: torch.Tensor) -> torch.Tensor:
        values[3] *= 1 + 2 * positions.ULP
        return values

    def nan(values: torch.Tensor) -> torch.Tensor:
        values[0] = torch.nan
        return values

    named = ["module model.rotary_emb, buffer inv_freq"]
    assert planted(torch.clone) == []
    for change in (lambda v: v**1.01, two_ulp, lambda v: v.half(), lambda v: v.half().float(), lambda v: v[:4], nan):
        assert planted(change) == named


def test_layer_types_have_frequencies_of_their_own() -> None:
    """Gemma 3 has two ropes in one module; each is checked against its own base."""
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    }
    model = loaded("gemma3_text", SMALL | LAYERS | {"sliding_window": 6, "rope_parameters": ropes})
    found = {rotary.layer_type: rotary for rotary in positions.rotaries(model)}
    assert set(found) == set(ropes)
    assert torch.equal(found["sliding_attention"].frequencies, by_hand())
    assert positions.wrong_frequencies(model, CACHE) == []
    module = model.model.rotary_emb
    module.full_attention_inv_freq, module.sliding_attention_inv_freq = (
        module.sliding_attention_inv_freq,
        module.full_attention_inv_freq,
    )
    assert len(positions.wrong_frequencies(model, CACHE)) == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_rotary_module_is_checked(architecture: str) -> None:
    """Of the architectures that are built in the tests; a rope type without a formula is said by name."""
    model = loaded(architecture, ARCHITECTURES[architecture])
    assert positions.unchecked(model, 64) == []
    for rotary in positions.rotaries(model):
        kinds = getattr(rotary.module.config, "rope_parameters", None) or {}
        kinds.get(rotary.layer_type, kinds)["rope_type"] = "spiral"
        assert "no formula is known for rope type spiral" in "\n".join(positions.unchecked(model, 64))
