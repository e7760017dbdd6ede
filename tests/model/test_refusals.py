"""Models that cannot be given a static cache are refused by what they are, before a weight is loaded."""

import json
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from benchmarks.coverage.configurations import tiny, types
from pipeline.checkpoint import loading
from pipeline.core.errors import Refusal, UserError
from pipeline.core.schema import Axes, Cache, ComputeType, Logits, Model, Precision, Source
from pipeline.core.tables.refusals import Category
from pipeline.model.adapters.text_part import keep_text_part
from pipeline.model.checks import dry_run
from pipeline.model.decoder import Decoder, cache_shapes
from pipeline.model.refusals import unsupported_reason
from pipeline.wrapping.program import wrap
from tests.support.architectures import ARCHITECTURES, SMALL

COVERAGE = Path(__file__).parents[2] / "docs/coverage.json"
EXPERTS = SMALL | {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
PLAIN = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
STATE, BOTH, POSITIONS = (
    "a state other than keys and values",
    "its attention looks both ways",
    "positions follow from the cache's length",
)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    # states of a kind of their own
    "minimax": (SMALL, STATE),
    "rwkv": (PLAIN, STATE),
    "xlstm": (PLAIN, STATE),
    "zaya": (SMALL, STATE),
    "qwen4_exp_text": (SMALL, "its indexer caches positions as well"),
    # encoders
    "bert": (PLAIN, BOTH),
    "camembert": (PLAIN, BOTH),
    "electra": (PLAIN, BOTH),
    "megatron-bert": (PLAIN, BOTH),
    "rembert": (PLAIN, BOTH),
    "roberta": (PLAIN, BOTH),
    "xlm-roberta": (PLAIN, BOTH),
    # positions, or causality, by the length of the cache
    "cpmant": (PLAIN, POSITIONS),
    "prophetnet": ({"vocab_size": 128, "hidden_size": 64, "is_encoder_decoder": False}, POSITIONS),
    "roformer": (PLAIN | {"is_decoder": True}, POSITIONS),
    "openai-gpt": (PLAIN, "keeps no cache of keys and values"),
}


def empty_model(architecture: str, config: dict[str, Any]) -> PreTrainedModel:
    """A model on the meta device, also of a type that is refused before its class is imported."""
    model = Model(source=Source.random, architecture=architecture, config=config)
    made = AutoConfig.for_model(architecture, **config)
    made._attn_implementation = None  # as loading.configuration leaves it
    built = loading.empty_model(model, Path(), made)
    assert built is not None
    return built


@pytest.mark.parametrize("architecture", REFUSED)
def test_refused_by_name_without_weights(architecture: str) -> None:
    """The reason is the right one, and found at once."""
    config, why = REFUSED[architecture]
    before = process_time()
    assert why in str(unsupported_reason(empty_model(architecture, config)))
    assert process_time() - before < 5


@pytest.mark.parametrize(
    ("architecture", "category"),
    [
        ("blip", Category.INPUTS),
        ("pi0", Category.INPUTS),
        ("udop", Category.ENCODER_DECODER),
        ("paligemma", Category.ENCODER),
        ("lfm2_vl", None),
    ],
)
def test_models_of_images(architecture: str, category: Category | None) -> None:
    """A forward that needs more than tokens, an encoder-decoder, a prompt that is read both ways; the text decoder of
    another can be built."""
    model = empty_model(architecture, tiny(architecture))
    keep_text_part(model)
    error = unsupported_reason(model)
    found = [problem.category for problem in error.problems if isinstance(problem, Refusal)] if error else [None]
    assert found == [category]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_can_be_built_is_not_refused(architecture: str) -> None:
    """Every kind of mask, norm, position and head that the wrapper knows."""
    assert unsupported_reason(empty_model(architecture, ARCHITECTURES[architecture])) is None


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("bert", PLAIN | {"is_decoder": True}),
        ("roberta", PLAIN | {"is_decoder": True}),
        ("lfm2", PLAIN | {"full_attn_idxs": [0, 1], "num_key_value_heads": 2}),
        ("llama4_text", EXPERTS | {"intermediate_size_mlp": 48}),
    ],
)
def test_one_of_a_refused_kind_that_can_be_built(architecture: str, config: dict[str, Any]) -> None:
    """A BERT trained as a decoder, a hybrid all of whose layers are attention, experts that run as plain matrix
    products: refused by property, not by name."""
    assert unsupported_reason(empty_model(architecture, config)) is None
    model = Model(source=Source.random, architecture=architecture, config=config)
    original = loading.load(model, Path())
    past = [torch.zeros(1, *shape) for layer in cache_shapes(original, 8) for shape in layer.values()]
    ids = torch.ones(1, 2, dtype=torch.int64)
    with torch.no_grad():
        Decoder(original, "last")(ids, ids, ids.cumsum(1) - 1, torch.zeros(1, dtype=torch.int64), past)


def test_wrap_refuses_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage's message names the class and the reason; weights are not even made."""
    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("weights were loaded"))
    model = Model(source=Source.random, architecture="bert", config=PLAIN)
    arguments = (model, Axes(2, 8), Cache(16), Precision(ComputeType.fp32), Logits.last, tmp_path, tmp_path)
    with pytest.raises(
        UserError, match="BertLMHeadModel cannot be given a static cache: its attention looks both ways"
    ):
        wrap(*arguments)


@pytest.mark.slow
def test_every_causal_lm_is_built_or_refused_with_a_category() -> None:
    """Of all types of transformers' mapping, from the configuration and the classes alone: no weights, no traceback.
    None is refused that docs/coverage.json says is built."""
    measured = json.loads(COVERAGE.read_text(encoding="utf-8"))["types"]
    for kind in types():
        model = Model(source=Source.random, architecture=kind, config=tiny(kind))
        try:
            empty = loading.empty_model(model, Path(), loading.configuration(model, Path()))
            assert empty is not None
            keep_text_part(empty)
            error = unsupported_reason(empty) or dry_run.refusal(empty)
        except UserError as raised:
            error = raised
        if error is not None:
            (problem,) = error.problems
            assert isinstance(problem, Refusal), kind
            assert problem.category in set(Category), kind
            assert problem.what, kind
            assert problem.fix, kind
            assert measured.get(kind, {}).get("onnxruntime") != "pass", kind
