"""The static cache by itself."""

import torch
from transformers import Cache

from pipeline.model.cache import StaticCache

SHAPE, SLOTS, LAYERS = (2, 2, 64, 16), 64, 3


def test_the_cache_is_one_of_transformers() -> None:
    """Of its class, with every slot in the mask, and none of its lengths a number that follows from one row."""
    past = [torch.zeros(SHAPE) for _ in range(2 * LAYERS)]
    cache = StaticCache(past, torch.full((2,), 7), torch.zeros(2, 3))
    assert isinstance(cache, Cache)
    assert len(cache) == LAYERS
    assert cache.is_compileable
    assert not any((*cache.is_sliding, *cache.is_linear, *cache.is_dummy))
    assert [cache.get_mask_sizes(3, 0), cache.get_seq_length(), cache.get_query_offset()] == [(SLOTS, 0), 0, 0]
    assert cache.layers[0].get_max_length() == SLOTS
    new = torch.ones(2, 2, 3, 16)
    keys, values = cache.update(new, 2 * new, 1)
    assert torch.equal(cache.present[2], keys)
    assert torch.equal(cache.present[3], values)
    assert torch.equal(keys[:, :, 7:10], new)
    assert keys.sum() == new.sum()
    assert cache.present[0] is past[0]
