"""Attention over the static cache: the mask builder and the attention function that transformers calls.

Both are registered with transformers as "kvforge".
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from pipeline.model import operators
from pipeline.model.arguments import set_attention
from pipeline.model.cache import StaticCache, running
from pipeline.model.refusals import unsupported

IMPLEMENTATION = "kvforge"
KNOWN_KWARGS = {
    *("dropout", "is_causal", "output_attentions", "use_cache"),  # not used in inference, or decided here
    *("past_key_value", "past_key_values", "cache", "cache_position"),  # applied before
    *("position_embeddings", "position_ids"),  # applied before
    "logits_to_keep",  # applied after; some models pass on what their head takes
    *("scaling", "softcap"),
    "sliding_window",  # in the mask
    "output_router_logits",  # for a mixture's router, passed on to every module
    "s_aux",  # sinks
    "indices",  # the slots that an indexer chose
}


def route_attention(model: PreTrainedModel) -> bool:
    """Let the model's masks and attention come from here; return whether it writes attention out by itself.

    Such a model gets only the mask. Its attention modules keep the implementation that they have.
    """
    if set_attention(model, IMPLEMENTATION):
        return False
    config = model.config
    own = copy.copy(config)
    for module in model.modules():
        if not isinstance(module, PreTrainedModel) and getattr(module, "config", None) is config:
            module.config = own
    config._attn_implementation_internal = IMPLEMENTATION
    return True


def _mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    dtype: torch.dtype = torch.float32,
    allow_is_causal_skip: bool = True,
    **_: Any,
) -> torch.Tensor | None:
    """Return None for plain causal layers; for any other rule, or where None is not allowed, a bool mask [batch, 1,
    sequence, cache_size]. A model that writes attention out by itself always gets a mask, as numbers of `dtype` that
    are added to scores.

    transformers states each rule (sliding window, chunks, ...) as a function of index tensors, so one broadcast
    call with every row's own query positions gives the mask, whatever the rule.
    """
    cache = running.get()
    if mask_function is causal_mask_function and allow_is_causal_skip and not cache.defers:
        cache.masks.append(None)
        return None
    mask = _seen(cache, batch_size, q_length, kv_length, mask_function)
    if not cache.defers:
        cache.masks.append(mask)
        return mask
    added = torch.zeros((), dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
    if mask_function is causal_mask_function:
        cache.causal_mask = added
    return added


def _seen(
    cache: StaticCache, batch_size: int, q_length: int, kv_length: int, mask_function: Callable[..., Any]
) -> torch.Tensor:
    """Return a rule of transformers as a bool mask [batch, 1, sequence, cache_size], True where a slot is seen."""
    position = cache.position
    query = position[:, None] + torch.arange(q_length, device=position.device)
    slots = torch.arange(kv_length, device=position.device)
    rows = torch.arange(batch_size, device=position.device)
    mask: torch.Tensor = mask_function(
        rows[:, None, None, None], torch.zeros_like(rows[:1]), query[:, None, :, None], slots[None, None, None, :]
    )
    return mask.expand(batch_size, 1, q_length, kv_length)


def _causal(cache: StaticCache, mask: torch.Tensor, q_length: int) -> torch.Tensor:
    """Return a mask that a model made by itself, where it got None for causal, with the causal rule in it (Doge)."""
    if None not in cache.masks or any(mask is made for made in cache.masks):
        return mask
    seen = _seen(cache, cache.position.shape[0], q_length, mask.shape[3], causal_mask_function)
    return mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, torch.finfo(mask.dtype).min)


def _chosen(cache: StaticCache, mask: torch.Tensor | None, indices: torch.Tensor) -> torch.Tensor:
    """Return a bool mask with only the slots that an indexer chose, [batch, sequence, chosen], which may be unseen
    ones."""
    batch, sequence, _ = indices.shape
    if mask is None:
        mask = _seen(cache, batch, sequence, cache.get_max_length(), causal_mask_function)
    chosen = torch.zeros(batch, sequence, mask.shape[3], dtype=torch.bool, device=indices.device)
    return mask & chosen.scatter(-1, indices.long(), True)[:, None]


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
    cache = running.get()
    cache.attend(module, key)
    if attention_mask is not None:
        attention_mask = _causal(cache, attention_mask, query.shape[2])
    if kwargs.get("indices") is not None:
        attention_mask = _chosen(cache, attention_mask, kwargs["indices"])
    scale, sink = kwargs.get("scaling"), kwargs.get("s_aux")
    scale = float(query.shape[-1] ** -0.5 if scale is None else scale)
    absorbed = getattr(module, "absorbed", None)  # pipeline.model.adapters.latent
    if absorbed is not None:
        query, key, value = absorbed.before(query, key, value)
    out = operators.attend(
        query,
        key,
        value,
        cache.length,
        attention_mask,
        scale,
        float(kwargs.get("softcap") or 0.0),
        None if sink is None else sink.to(query.dtype),
    )
    if absorbed is not None:
        out = absorbed.after(out)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _mask)
