"""Checkpoints of models for images: their text decoder, without the weights of the other parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from benchmarks.coverage.configurations import tiny
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.schema import Model, Source
from pipeline.generate import Generator
from pipeline.model import pt2
from pipeline.model.adapters.text_part import is_multimodal, keep_text_part
from pipeline.model.decoder import Decoder, cache_shapes
from tests.support.architectures import ARCHITECTURES, SMALL, small_llama
from tests.support.points import build

TEXT = SMALL | {"num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | {
    "image_size": 8,
    "patch_size": 4,
}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}}
TOKENS = {f"{kind}_token_id": 100 + n for n, kind in enumerate(("image", "video", "vision_start", "vision_end"))}
MODELS: dict[str, dict[str, Any]] = {
    "llava": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
        "image_token_index": 100,
    },
    "gemma3": {
        "text_config": ARCHITECTURES["gemma3_text"] | {"model_type": "gemma3_text"},
        "vision_config": VISION | {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
        "image_token_index": 100,
    },
    "qwen2_5_vl": {  # tied, with positions along three axes
        "text_config": TEXT | MROPE | {"tie_word_embeddings": True},
        "vision_config": QWEN_VISION | {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [0]},
        "tie_word_embeddings": True,
        **TOKENS,
    },
}
PROMPT = [5, 17, 99, 3, 42]


def full(kind: str) -> PreTrainedModel:
    """A whole model with random weights, as transformers makes it."""
    config = AutoConfig.for_model(kind, **json.loads(json.dumps(MODELS[kind])))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_the_whole_model(kind: str, tmp_path: Path) -> None:
    """Of a checkpoint that transformers saved, on text; and none of the parts for images is left."""
    whole = full(kind)
    whole.save_pretrained(tmp_path)
    original = loading.load(Model(source=Source.local, path=str(tmp_path)), tmp_path)
    assert is_multimodal(original)
    left_out = keep_text_part(original)
    names = [name for name, _ in original.named_parameters()]
    assert left_out
    assert not [name for name in names if "vision" in name or "visual" in name or "projector" in name]
    assert not any(name.startswith(tuple(left_out)) for name in names)
    past = [torch.zeros(1, *shape) for layer in cache_shapes(original, 16) for shape in layer.values()]
    ids = torch.tensor([PROMPT])
    arguments = (ids, torch.ones_like(ids), torch.arange(len(PROMPT))[None], torch.zeros(1, dtype=torch.int64), past)
    with torch.no_grad():
        found, _ = Decoder(original, "all").eval()(*arguments)
        torch.testing.assert_close(found, whole(input_ids=ids).logits)


def test_a_model_of_text_alone_stays_whole() -> None:
    """It has nothing to leave out."""
    model = small_llama(0)
    assert not is_multimodal(model)
    assert keep_text_part(model) == []


def test_tokens_of_an_image_would_see_each_other() -> None:
    """A mask for them is not made: there are none, and it would depend on the prompt's length."""
    config = AutoConfig.for_model("gemma4_unified", **tiny("gemma4_unified"))
    config.get_text_config().use_bidirectional_attention = "vision"
    whole = AutoModelForCausalLM.from_config(config)
    keep_text_part(whole)
    assert whole.config.get_text_config().use_bidirectional_attention is None


@pytest.mark.slow
def test_the_engine_says_what_the_whole_model_says(tmp_path: Path) -> None:
    """Greedy tokens equal those of transformers' own generate; the program's file holds no weight of the other parts,
    and a note names them."""
    whole = full("qwen2_5_vl")
    whole.save_pretrained(tmp_path / "model")
    build(tmp_path, [], model={"source": "local", "path": str(tmp_path / "model"), "trust_remote_code": False})
    program = pt2.load(tmp_path / layout.WRAPPED / layout.PROGRAM)
    with safe_open(tmp_path / "model/model.safetensors", "pt") as stored:
        assert any("visual" in name for name in stored.keys())  # noqa: SIM118  # not a dict
    assert not [name for name in program.state_dict if "visual" in name]
    notes = json.loads((tmp_path / layout.WRAPPED / layout.NOTES).read_text())
    assert "only the text decoder is built, without model.visual" in notes
    generator = Generator.load(tmp_path / layout.ENGINE)
    generator.stop = frozenset()
    new = [row[0] for row in generator.tokens([PROMPT], 20)]
    prompt = torch.tensor([PROMPT])
    whole.generation_config.eos_token_id = None
    wanted = whole.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20)
    assert new == wanted[0, len(PROMPT) :].tolist()
