"""Hybrids, recurrent models and indexers: the decoder equals the original, states included."""

import pytest
from transformers import PreTrainedModel

from benchmarks.coverage.configurations import tiny
from pipeline.checkpoint import loading
from pipeline.core.contract import REPLACE, SHIFT, contract_for
from pipeline.core.schema import Model, Source
from pipeline.model.decoder import cache_shapes
from tests.support.architectures import mostly_slow
from tests.support.decoders import CACHE, failures

KINDS = (
    *("lfm2", "qwen3_5_text", "kimi_linear", "olmo_hybrid", "mamba2", "falcon_h1", "nemotron_h", "zamba2", "mamba"),
    *("zamba", "jamba", "recurrent_gemma", "deepseek_v32", "glm_moe_dsa"),
)
QUICK = ("lfm2", "qwen3_5_text", "zamba2", "mamba", "recurrent_gemma", "deepseek_v32")


def made(kind: str) -> PreTrainedModel:
    """A tiny model with random weights."""
    return loading.load(Model(source=Source.random, architecture=kind, config=tiny(kind), seed=0), None)


@pytest.mark.parametrize("kind", mostly_slow(KINDS, *QUICK))
def test_decoder_equals_the_original(kind: str) -> None:
    """Every case of verify: states after ragged steps, chunks and an idle row."""
    assert not failures(made(kind), made(kind))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("lfm2", {"conv": (SHIFT, (64, 2))}),
        ("qwen3_5_text", {"conv": (SHIFT, (128, 3)), "recurrent": (REPLACE, (4, 16, 16))}),
        ("zamba", {"conv": (SHIFT, (128, 3)), "recurrent": (REPLACE, (128, 8, 1))}),
    ],
)
def test_contract(kind: str, parts: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Each state by its layer's own number, with its rule; no size in it is the cache's."""
    layers = cache_shapes(made(kind), CACHE)
    contract = contract_for(layers, 256, "fp16", "last", {"batch": 4, "sequence": 32})
    first = {
        name: tensor for name, tensor in ((t.name, t) for t in contract.states) if name.startswith("past_state.0.")
    }
    assert first.keys() == {f"past_state.0.{part}" for part in parts}
    for part, (rule, shape) in parts.items():
        tensor = first[f"past_state.0.{part}"]
        assert (contract.rules[tensor.name], tensor.shape) == (rule, ("batch", *shape))
        assert tensor.dtype == ("float16" if rule == SHIFT else "float32")
        assert contract.aliases[f"present_state.0.{part}"] == tensor.name
    assert [tensor.name for tensor in contract.caches][:2] == ["past_key_values.1.key", "past_key_values.1.value"]
