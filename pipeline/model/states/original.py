"""What the original model keeps between steps, read from transformers' cache in our layout.

Keys and values, [batch, kv_heads, tokens, head_dim]; indexer: the keys by which an indexer chooses tokens, [batch, 1,
tokens, index_head_dim]; conv: the last inputs of a convolution over the sequence, [batch, channels, kernel size - 1],
conv1, conv2 where a layer has several; recurrent: the state of a recurrence, [batch, heads, key_dim, value_dim]
(operators.recur).
"""

import torch
from transformers import Cache, DynamicCache, DynamicLayer, PreTrainedModel
from transformers.cache_utils import (
    DynamicIndexedLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionLayer,
)

from pipeline.model.cache import part_name
from pipeline.model.states import griffin
from pipeline.model.states.recurrences import RECURRENCES, recurrences


def empty_cache(model: PreTrainedModel) -> Cache:
    """Return a cache of transformers for a model, of layers that keep every token: one with a sliding window would drop
    what is compared. A model that keeps states in its modules forgets them."""
    griffin.forget(model)
    kinds = _kinds(model)
    if not any(isinstance(layer, LinearAttentionLayer | DynamicIndexedLayer) for layer in kinds):
        return DynamicCache()
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(kinds):
        if isinstance(layer, LinearAttentionLayer) and isinstance(layer, DynamicLayer):
            cache.layers[index] = LinearAttentionAndFullAttentionLayer(layer.number_of_states)
        elif isinstance(layer, DynamicLayer) and not isinstance(layer, DynamicIndexedLayer):
            cache.layers[index] = DynamicLayer()
    return cache


def _kinds(model: PreTrainedModel) -> list[object]:
    try:
        return list(DynamicCache(config=model.config).layers)
    except AttributeError:  # a configuration that does not say how many layers there are
        return []


def may_keep_nothing(cache: Cache, index: int) -> bool:
    """Whether a layer is one of a hybrid model that has neither attention nor a state, such as a mixture of experts."""
    return any(isinstance(layer, LinearAttentionLayer) for layer in cache.layers) and not isinstance(
        cache.layers[index], DynamicLayer | LinearAttentionLayer
    )


def of_cache(model: PreTrainedModel, cache: Cache) -> list[dict[str, torch.Tensor]]:
    """Return per layer the parts of a cache that a forward has filled."""
    functions = {index: name for index, _, name in recurrences(model)}
    blocks = dict(griffin.blocks(model))
    layers = []
    for index, layer in enumerate(cache.layers):
        kept: dict[str, torch.Tensor] = {}
        if getattr(layer, "keys", None) is not None:
            kept |= {"key": layer.keys, "value": layer.values}
        if getattr(layer, "indexer_keys", None) is not None:
            kept["indexer"] = layer.indexer_keys[:, None]
        if isinstance(layer, LinearAttentionLayer):
            for number, state in layer.conv_states.items():
                if state is not None:
                    kept[part_name("conv", number)] = state[..., 1:]  # the first is of no token to come
            for state in filter(lambda state: state is not None, layer.recurrent_states.values()):
                kept["recurrent"] = RECURRENCES[functions[index]].to_heads(state)
        layers.append(griffin.states(blocks[index]) if index in blocks else kept)
    return layers


def begins_anew(model: PreTrainedModel) -> bool:
    """Whether transformers' own recurrence ignores, over several tokens, a state that it has kept: Mamba's does."""
    return any(griffin.blocks(model)) or any(RECURRENCES[name].begins_anew for _, _, name in recurrences(model))
