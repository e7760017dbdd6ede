"""The decoder: any causal LM of transformers behind the graph contract's inputs and outputs.

The model's code is not touched. transformers lets callers pass a cache of their own, and register a mask builder and
an attention function. These three are all that a static cache needs: `StaticCache`, and the two functions registered as
"kvforge".

Not covered: models whose attention does not go through transformers' AttentionInterface, attention sinks,
encoder-decoders, and state other than keys and values; `cache_shapes` and the forward refuse those.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, Cache, CacheLayerMixin, DynamicCache, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from pipeline.core.errors import Problem, UserError
from pipeline.model import operators
from pipeline.model.arguments import with_cache

IMPLEMENTATION = "kvforge"
KNOWN_KWARGS = {
    *("dropout", "is_causal", "output_attentions", "use_cache"),  # not used in inference, or decided here
    *("past_key_value", "past_key_values", "cache", "cache_position"),  # applied before
    *("position_embeddings", "position_ids"),  # applied before
    *("scaling", "softcap"),
    "sliding_window",  # in the mask
}


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
        self.attention_calls = 0

    @property
    def present(self) -> list[torch.Tensor]:
        """The buffers as they are now, in the order in which they were given."""
        return [tensor for layer in self.layers for tensor in (layer.keys, layer.values)]


# The cache of the running forward: transformers does not pass it to the mask builder and the attention function. Each
# thread has its own, so that decoders may run side by side, and one within another.
_running: ContextVar[StaticCache] = ContextVar("running")


def _mask(
    batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any], **_: Any
) -> torch.Tensor | None:
    """Return None for plain causal layers; for any other rule a bool mask [batch, 1, sequence, cache_size].

    transformers states each rule (sliding window, chunks, ...) as a function of index tensors, so one broadcast
    call with every row's own query positions gives the mask, whatever the rule.
    """
    if mask_function is causal_mask_function:
        return None
    position = _running.get().position
    query = position[:, None] + torch.arange(q_length, device=position.device)
    slots = torch.arange(kv_length, device=position.device)
    rows = torch.arange(batch_size, device=position.device)
    mask: torch.Tensor = mask_function(
        rows[:, None, None, None], torch.zeros_like(rows[:1]), query[:, None, :, None], slots[None, None, None, :]
    )
    return mask.expand(batch_size, 1, q_length, kv_length)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over the whole cache; returns [batch, sequence, heads, value head_dim], and no attention weights."""
    unknown = sorted(k for k, v in kwargs.items() if k not in KNOWN_KWARGS and v is not None)
    if unknown:
        raise unsupported(type(module).__name__, f"its attention takes {', '.join(unknown)}")
    cache = _running.get()
    cache.attention_calls += 1
    scale = kwargs.get("scaling")
    out = operators.attend(
        query,
        key,
        value,
        cache.length,
        attention_mask,
        float(query.shape[-1] ** -0.5 if scale is None else scale),
        float(kwargs.get("softcap") or 0.0),
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)


class Decoder(nn.Module):
    """One forward of the graph contract: write new keys and values into the cache, attend over it.

    `past` and the second result hold the caches as key, value, key, value, ...: layer by layer.
    `logits`: "last" gives [batch, 1, vocab] at each row's last real token; "all" gives [batch, sequence, vocab],
    exactly 0 at padding. Raises UserError when attention did not go through the static cache in every layer.
    """

    def __init__(self, model: PreTrainedModel, logits: str) -> None:
        super().__init__()
        model.set_attn_implementation(IMPLEMENTATION)
        self.model = model
        self.logits = logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache_position: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        cache = StaticCache(past, cache_position, input_ids.shape[1])
        last = attention_mask.sum(1) - 1  # [batch], index of the last real new token

        def gather_last(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (hidden,) = args  # [batch, sequence, hidden_size]
            return (hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])),)

        with ExitStack() as stack:
            stack.callback(_running.reset, _running.set(cache))
            if self.logits == "last":
                # gathered before the head, so that the vocabulary's product runs for one token of each row
                head = self.model.get_output_embeddings()
                stack.enter_context(head.register_forward_pre_hook(gather_last))
            logits = self.model(input_ids=input_ids, position_ids=position_ids, **with_cache(self.model, cache)).logits
        if cache.attention_calls != len(cache):
            raise unsupported(
                type(self.model).__name__,
                f"{cache.attention_calls} of its {len(cache)} attention layers go through transformers' "
                "AttentionInterface",
            )
        if self.logits == "all":
            logits = logits * attention_mask[:, :, None].to(logits.dtype)
        return logits, cache.present


def cache_shapes(model: PreTrainedModel, cache_size: int) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Return per layer the shapes of key and value without batch, (kv_heads, cache_size, head_dim). They are found by
    running the model on one token: configurations spell these numbers in too many ways to read them there.

    Raises UserError for a model that does not keep exactly one key and one value per layer.
    """
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64), **with_cache(model, cache))
    shapes = []
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "keys", None) is None:
            raise unsupported(type(model).__name__, f"layer {index} caches no keys and values")
        key, value = layer.keys.shape, layer.values.shape
        shapes.append(((key[1], cache_size, key[3]), (value[1], cache_size, value[3])))
    if not shapes:
        raise unsupported(type(model).__name__, "it fills no cache of keys and values")
    return shapes


def unsupported(architecture: str, why: str) -> UserError:
    """Return the error that refuses a model, with the reason."""
    return UserError(
        Problem(
            f"{architecture} cannot be given a static cache: {why}",
            "model",
            "use a decoder whose layers keep keys and values only and take transformers' attention functions",
        )
    )
