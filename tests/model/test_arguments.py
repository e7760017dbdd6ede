"""pipeline.model.arguments: the cache reaches a forward under the name that it has there."""

import torch
from transformers import DistilBertConfig, DistilBertModel, DynamicCache, LlamaConfig, LlamaForCausalLM

from pipeline.checkpoint import loading
from pipeline.core.schema import Model, Source
from pipeline.model.arguments import cache_name, set_attention, with_cache
from tests.support.architectures import SMALL


class Renamed(LlamaForCausalLM):  # type: ignore[misc]  # transformers is not typed
    """A forward whose argument is called as in transformers 5.24."""

    def forward(self, input_ids: torch.Tensor, cache: DynamicCache, use_cache: bool) -> DynamicCache:
        """Return what it was given."""
        return cache if use_cache else None


def llama(kind: type[LlamaForCausalLM]) -> LlamaForCausalLM:
    """One layer."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return kind(LlamaConfig(vocab_size=8, **sizes))


def test_a_forward_fills_the_cache() -> None:
    """Under the name of the installed release."""
    model, cache = llama(LlamaForCausalLM), DynamicCache()
    model(input_ids=torch.zeros(1, 3, dtype=torch.int64), **with_cache(model, cache))
    assert cache.get_seq_length() == 3


def test_the_name_is_that_of_the_forward() -> None:
    """The newer name, where the forward has it."""
    model, cache = llama(Renamed), DynamicCache()
    assert cache_name(model) == "cache"
    assert model(input_ids=torch.zeros(1, 3, dtype=torch.int64), **with_cache(model, cache)) is cache


def test_a_model_without_a_cache() -> None:
    """Has no name for it."""
    config = DistilBertConfig(vocab_size=8, dim=16, n_layers=1, n_heads=2, hidden_dim=16)
    assert cache_name(DistilBertModel(config)) is None


def test_the_text_decoder_decides_how_a_model_attends() -> None:
    """GOT-OCR's own code writes the attention of its images out by itself, its text decoder is a Qwen 2."""
    text = SMALL | {"model_type": "qwen2"}
    vision = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 16}
    config = {"text_config": text, "vision_config": vision}
    model = loading.load(Model(source=Source.random, architecture="got_ocr2", config=config), None)
    assert set_attention(model, "eager")
    assert set_attention(model, "sdpa")
    assert model.get_decoder().config._attn_implementation == "sdpa"
