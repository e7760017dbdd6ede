"""transformers' cache over buffers of fixed size: what one forward reads, writes and hands back."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import Cache, CacheLayerMixin

from pipeline.model import operators


class StaticLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values, [batch, kv_heads, cache_size, head_dim] each: new ones are scattered into them."""

    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.position = keys, values, position
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers are given."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values; return all slots."""
        self.keys = operators.scatter(self.keys, key_states, self.position)
        self.values = operators.scatter(self.values, value_states, self.position)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0: positions come in as position_ids, and the mask builder places queries itself, row by row."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask's last axis: every slot. A layer with a sliding window keeps all as well."""
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        """The number of slots."""
        return int(self.keys.shape[2])


class StaticCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """transformers' cache over given buffers, key and value of each layer in turn, for one forward.

    position: [batch], slot of each row's first new token; length: [batch], used slots once the new tokens are written.
    """

    def __init__(self, past: Sequence[torch.Tensor], position: torch.Tensor, new_tokens: int) -> None:
        pairs = zip(past[0::2], past[1::2], strict=True)
        super().__init__(layers=[StaticLayer(keys, values, position) for keys, values in pairs])
        self.position, self.length = position, position + new_tokens
        self.attended: set[int] = set()  # layers whose keys an attention function has got

    def attend(self, module: nn.Module, keys: torch.Tensor) -> None:
        """Note that a module attends over these keys: a layer's own, an earlier layer's, or what it computes of its
        own."""
        found = next((i for i, layer in enumerate(self.layers) if layer.keys is keys), None)
        index = getattr(module, "layer_idx", None) if found is None else found
        if isinstance(index, int):
            self.attended.add(index)

    @property
    def present(self) -> list[torch.Tensor]:
        """The buffers as they are now, in the order in which they were given."""
        return [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]


# The cache of the running forward: transformers does not pass it to the mask builder and the attention function. Each
# thread has its own, so that decoders may run side by side, and one within another.
running: ContextVar[StaticCache] = ContextVar("running")
