"""The wrapper: any causal LM of transformers behind the graph contract's inputs and outputs.

Model code is not touched. transformers lets three things be replaced from outside, and those three are all
that a static cache needs: the cache object (`StaticCache` here), the mask builder and the attention function
(both registered under the name "kvforge").

Not covered: models whose attention does not go through transformers' AttentionInterface, attention sinks,
encoder-decoders, and state other than keys and values; `cache_shapes` and `check_attention` refuse those.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from pipeline.core.errors import Problem, UserError
from pipeline.model import operators

IMPLEMENTATION = "kvforge"
KNOWN_KWARGS = {
    *("dropout", "is_causal", "output_attentions", "use_cache"),  # no part of inference here, or our own affair
    *("past_key_value", "past_key_values", "position_embeddings", "position_ids", "cache_position"),  # applied before
    *("scaling", "softcap"),
    "sliding_window",  # in the mask
}


class StaticCache:
    """Duck-typed transformers cache over given buffers: `update` scatters the new keys and values into them."""

    is_compileable = True

    def __init__(self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], position: torch.Tensor) -> None:
        self.keys, self.values = list(keys), list(values)
        self.position = position
        self.is_sliding = [False] * len(self.keys)  # a sliding-window layer keeps every slot and masks

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[layer] = operators.scatter(self.keys[layer], key, self.position)
        self.values[layer] = operators.scatter(self.values[layer], value, self.position)
        return self.keys[layer], self.values[layer]

    def get_seq_length(self, layer: int = 0) -> int:
        return 0  # positions come in as position_ids; nothing may be derived from here

    def get_query_offset(self, layer: int = 0) -> int:
        return 0  # the mask builder below places queries itself, per row

    def get_mask_sizes(self, sequence: int, layer: int = 0) -> tuple[int, int]:
        return self.keys[layer].shape[2], 0

    def __len__(self) -> int:
        return len(self.keys)


class _Step:
    """The running step, for the mask builder and the attention function: transformers passes them no more."""

    position: torch.Tensor  # [batch], slot of the first new token
    length: torch.Tensor  # [batch], slots used once the new tokens are written
    last: torch.Tensor  # [batch], index of the last real new token
    attentions = 0  # calls so far


def _mask(
    batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any], **kwargs: Any
) -> torch.Tensor | None:
    """None for plain causal layers; for any other rule a bool mask [batch, 1, sequence, cache_size].

    transformers states each rule (sliding window, chunks, ...) as a function of index tensors, so one broadcast
    call with every row's own query positions gives the mask, whatever the rule.
    """
    if mask_function is causal_mask_function:
        return None
    position = _Step.position
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
    unknown = sorted(k for k, v in kwargs.items() if k not in KNOWN_KWARGS and v is not None)
    if unknown:
        raise unsupported(type(module).__name__, f"its attention takes {', '.join(unknown)}")
    _Step.attentions += 1
    scale = kwargs.get("scaling")
    out = operators.attend(
        query,
        key,
        value,
        _Step.length,
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
    exactly 0 at padding.
    """

    def __init__(self, model: PreTrainedModel, logits: str) -> None:
        super().__init__()
        model.set_attn_implementation(IMPLEMENTATION)
        self.model = model
        self.logits = logits
        if logits == "last":
            # gathered before the head, so that the vocabulary's product runs for one token a row
            model.get_output_embeddings().register_forward_pre_hook(self._gather_last)

    def _gather_last(self, head: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        (hidden,) = args  # [batch, sequence, hidden_size]
        return (hidden.gather(1, _Step.last[:, None, None].expand(-1, 1, hidden.shape[2])),)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache_position: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        _Step.position = cache_position
        _Step.length = cache_position + input_ids.shape[1]
        _Step.attentions = 0
        _Step.last = attention_mask.sum(1) - 1
        cache = StaticCache(past[0::2], past[1::2], cache_position)
        logits = self.model(
            input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True
        ).logits
        if self.logits == "all":
            logits = logits * attention_mask[:, :, None].to(logits.dtype)
        present = [t for pair in zip(cache.keys, cache.values, strict=True) for t in pair]
        return logits, present


def cache_shapes(model: PreTrainedModel, cache_size: int) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """Per layer the key's and the value's shape without batch, (kv_heads, cache_size, head_dim), found by running
    the model on one token: configurations spell these numbers in too many ways to read them there.

    Raises UserError for a model whose state is other than one key and one value per layer.
    """
    cache = DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
    shapes = []
    for index, layer in enumerate(cache.layers):
        if getattr(layer, "keys", None) is None:
            raise unsupported(type(model).__name__, f"layer {index} caches no keys and values")
        key, value = layer.keys.shape, layer.values.shape
        shapes.append(((key[1], cache_size, key[3]), (value[1], cache_size, value[3])))
    if not shapes:
        raise unsupported(type(model).__name__, "it fills no cache of keys and values")
    return shapes


def check_attention(decoder: Decoder, layers: int) -> None:
    """After one forward: raise UserError when attention did not run through the static cache in every layer."""
    if _Step.attentions != layers:
        raise unsupported(
            type(decoder.model).__name__,
            f"{_Step.attentions} of its {layers} attention layers go through transformers' AttentionInterface",
        )


def unsupported(architecture: str, why: str) -> UserError:
    """The refusal of a model, and its reason."""
    return UserError(
        Problem(
            f"{architecture} cannot be given a static cache: {why}",
            "model",
            "use a decoder whose layers keep keys and values only and take transformers' attention functions",
        )
    )
