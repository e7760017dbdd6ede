"""transformers' cache over buffers of fixed size: what one forward reads, writes and hands back."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import Cache, CacheLayerMixin

from pipeline.model import operators
from pipeline.model.adapters.deferred import Keys, Values


class StaticLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's keys and values, [batch, kv_heads, cache_size, head_dim] each: new ones are scattered into them."""

    is_compileable = True

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, step: "StaticCache") -> None:
        super().__init__()
        self.keys, self.values, self.step = keys, values, step
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers are given."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write new keys and values; return all slots, or stand-ins for a model that writes attention out by itself."""
        self.keys = operators.scatter(self.keys, key_states, self.step.position)
        self.values = operators.scatter(self.values, value_states, self.step.position)
        if self.step.defers:
            return Keys(self.step, self.keys), Values(self.step, self.values)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """0: positions come in as position_ids, and the mask builder places queries itself, row by row. Models that
        write attention out by themselves make tables as long as this and the new tokens: then it is all slots."""
        return self.keys.shape[2] - self.step.new_tokens if self.step.defers else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask's last axis: every slot. A layer with a sliding window keeps all as well."""
        return self.keys.shape[2], 0

    def get_max_length(self) -> int:
        """The number of slots."""
        return int(self.keys.shape[2])


class StaticCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """transformers' cache over given buffers, key and value of each layer in turn, for one forward.

    position: [batch], slot of each row's first new token; length: [batch], used slots once the new tokens are written;
    position_ids: [batch, sequence]; defers: hand out stand-ins of pipeline.model.adapters.deferred.
    """

    def __init__(
        self, past: Sequence[torch.Tensor], position: torch.Tensor, position_ids: torch.Tensor, *, defers: bool = False
    ) -> None:
        pairs = zip(past[0::2], past[1::2], strict=True)
        super().__init__(layers=[StaticLayer(keys, values, self) for keys, values in pairs])
        self.new_tokens = position_ids.shape[1]
        self.position, self.length, self.position_ids = position, position + self.new_tokens, position_ids
        self.defers = defers
        self.causal_mask: torch.Tensor | None = None  # as the model got it, where it means causal and nothing else
        self.masks: list[torch.Tensor | None] = []  # as the model got them; None for plain causal layers
        self.attended: set[int] = set()  # layers whose keys an attention function has got

    def attend(self, module: nn.Module | None, keys: torch.Tensor) -> None:
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
