"""transformers' cache over buffers of fixed size: what one forward reads, writes and hands back."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import Cache, CacheLayerMixin

from pipeline.core.contract import CACHED
from pipeline.model import operators
from pipeline.model.adapters.deferred import Keys, UnknownForm, Values

PAIR = ("key", "value")


class StaticLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """What one layer keeps, by part: keys and values, [batch, kv_heads, cache_size, head_dim] each, into which new ones
    are scattered, and an indexer's keys; states of convolutions and recurrences (pipeline.model.states)."""

    is_compileable = True

    def __init__(self, kept: Mapping[str, torch.Tensor], step: "StaticCache") -> None:
        super().__init__()
        self.keys, self.values = kept.get("key"), kept.get("value")
        self.indexer_keys = kept.get("indexer")  # [batch, 1, cache_size, index_head_dim]
        self.states = {part: tensor for part, tensor in kept.items() if part not in CACHED}
        self.recurring = self.states.get("recurrent")  # as it was before the new tokens
        self.recurred: list[torch.Tensor] = []  # the new state of each recurrence that has run
        self.step = step
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

    def shift(self, new: torch.Tensor, part: str) -> torch.Tensor:
        """Append a convolution's new inputs, [batch, channels, sequence], to its state, the inputs before them; return
        both. The state moves on by each row's own number of new tokens."""
        state = self.states[part]  # [batch, channels, kernel size - 1]
        both = torch.cat([state, new.to(state.dtype)], -1)
        last = self.step.counts[:, None] + torch.arange(state.shape[2], device=state.device)
        self.states[part] = both.gather(2, last[:, None].expand(-1, state.shape[1], -1))
        return both

    def recur(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        decay: torch.Tensor,
        beta: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a recurrence over the new tokens (see operators.recur), in which padding changes nothing; return its
        output and the new state. A layer may run several, each over heads of its own."""
        assert self.recurring is not None
        real = self.step.real[:, :, None]
        value, beta = (value * real[..., None], None) if beta is None else (value, beta * real)
        first = sum(state.shape[1] for state in self.recurred)
        state = self.recurring[:, first : first + value.shape[2]]
        out, state = operators.recur(query, key, value, decay * real[..., None], beta, state)
        self.recurred.append(state)
        self.states["recurrent"] = torch.cat(self.recurred, 1) if first else state
        return out, state

    def get_seq_length(self) -> int:
        """0: positions come in as position_ids, and the mask builder places queries itself, row by row. Models that
        write attention out by themselves make tables as long as this and the new tokens: then it is all slots."""
        return self.get_max_length() - self.step.new_tokens if self.step.defers else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask's last axis: every slot. A layer with a sliding window keeps all as well."""
        return self.get_max_length(), 0

    def get_max_length(self) -> int:
        """The number of slots; 0 in a layer without attention."""
        return 0 if self.keys is None else int(self.keys.shape[2])


class StaticCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """transformers' cache over given tensors, layer by layer, for one forward.

    past: the tensors of each layer's parts in turn; position: [batch], slot of each row's first new token;
    position_ids, attention_mask: [batch, sequence], the second all ones where it is left out; layers: the parts of each
    layer, key and value where it is left out; defers: hand out stand-ins of pipeline.model.adapters.deferred.
    length: [batch], used slots once the new tokens are written; real: fp32 [batch, sequence], 1 for a token, 0 for
    padding; counts: [batch], new tokens of each row.
    """

    def __init__(
        self,
        past: Sequence[torch.Tensor],
        position: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        layers: Sequence[Sequence[str]] | None = None,
        *,
        defers: bool = False,
    ) -> None:
        given = iter(past)
        parts = [PAIR] * (len(past) // 2) if layers is None else layers
        super().__init__(layers=[StaticLayer({part: next(given) for part in each}, self) for each in parts])
        self.new_tokens = position_ids.shape[1]
        self.position, self.length, self.position_ids = position, position + self.new_tokens, position_ids
        mask = torch.ones_like(position_ids) if attention_mask is None else attention_mask
        self.real, self.counts = mask.float(), mask.sum(1)
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

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """See StaticLayer; of the first layer with attention where the one asked for has none."""
        return self._attending(layer_idx).get_seq_length()

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """As get_seq_length."""
        return self._attending(layer_idx).get_mask_sizes(query_length)

    def _attending(self, index: int) -> StaticLayer:
        layers: list[StaticLayer] = [self.layers[index], *self.layers]
        return next((layer for layer in layers if layer.keys is not None), layers[0])

    def get_conv_state(self, *_: Any, **__: Any) -> None:
        """None, also with a state: transformers takes another path for one token, and one path must do for all."""

    def get_recurrent_state(self, *_: Any, **__: Any) -> None:
        """As get_conv_state; StaticLayer.recur takes the state itself."""

    def update_indexer(self, indexer_key_states: torch.Tensor, layer_idx: int) -> torch.Tensor:
        """Write an indexer's new keys, [batch, sequence, index_head_dim]; return those of all slots."""
        layer, new = self.layers[layer_idx], indexer_key_states[:, None]
        layer.indexer_keys = operators.scatter(layer.indexer_keys, new.to(layer.indexer_keys.dtype), self.position)
        found: torch.Tensor = layer.indexer_keys[:, 0].to(new.dtype)  # some models keep an indexer in fp32
        return found

    def update_conv_state(
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> torch.Tensor:
        """See StaticLayer.shift."""
        found: torch.Tensor = self.layers[layer_idx].shift(conv_states, part_name("conv", state_idx))
        return found

    def update_recurrent_state(self, recurrent_states: torch.Tensor, layer_idx: int, **_: Any) -> torch.Tensor:
        """Return the state as it is: StaticLayer.recur has kept it."""
        if not self.layers[layer_idx].recurred:
            raise UnknownForm(f"layer {layer_idx} runs a recurrence of its own")
        return recurrent_states

    @property
    def present(self) -> list[torch.Tensor]:
        """The tensors as they are now, in the order in which they were given."""
        layers: list[StaticLayer] = self.layers
        kept = (t for each in layers for t in (each.keys, each.values, each.indexer_keys, *each.states.values()))
        return [tensor for tensor in kept if tensor is not None]


def part_name(state: str, index: int) -> str:
    """The name of a layer's state where it has several of a kind: conv, conv1, conv2."""
    return f"{state}{index}" if index else state


# The cache of the running forward: transformers does not pass it to the mask builder and the attention function. Each
# thread has its own, so that decoders may run side by side, and one within another.
running: ContextVar[StaticCache] = ContextVar("running")
