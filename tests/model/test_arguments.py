"""pipeline.model.arguments: the cache reaches a forward under the name that it has there."""

import torch
from transformers import DistilBertConfig, DistilBertModel, DynamicCache, LlamaConfig, LlamaForCausalLM

from pipeline.model.arguments import cache_name, with_cache


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
