"""The static KV cache as two torch operators, each with an eager implementation and a fake one for tracing.

`kvforge::scatter` writes new keys or values into the cache, `kvforge::attend` attends over the cache. They are
opaque to torch.export and stay one call each in a .pt2 file, and pipeline.export turns each into one standard ONNX
node. In PyTorch both are functional (the write clones the cache), as PyTorch is used for proof, not for speed. In the
engine the write is in place.
"""

import torch


@torch.library.custom_op("kvforge::scatter", mutates_args=())
def scatter(cache: torch.Tensor, update: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Write `update` into `cache` along the slot axis, each row from its own slot on: ONNX TensorScatter-24.

    cache: [batch, kv_heads, cache_size, head_dim]; update: [batch, kv_heads, sequence, head_dim];
    position: [batch] int64, slot of each row's first new token. Returns the new cache.
    A write past the end is the caller's error; it raises IndexError here.
    """
    slots = position[:, None] + torch.arange(update.shape[2], device=cache.device)  # [batch, sequence]
    rows = torch.arange(cache.shape[0], device=cache.device)[:, None]
    out = cache.clone()
    out[rows, :, slots] = update.transpose(1, 2)
    return out


@scatter.register_fake
def _(cache: torch.Tensor, update: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("kvforge::attend", mutates_args=())
def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
    sink: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grouped-query attention over the whole cache: ONNX Attention-24.

    query: [batch, heads, sequence, head_dim]; key, value: [batch, kv_heads, cache_size, head_dim];
    length: [batch] int64, used slots of each row, the new ones (padding too) included. Without a mask, new
    token i of a row sees the slots up to `length - sequence + i`: causal, aligned to the lower right.
    mask: [batch or 1, heads or 1, sequence, cache_size]; replaces that rule altogether. bool: True where a slot is
    seen; floating: added to the scores after scale and softcap, the lowest number where a slot is not seen.
    scale: factor on the scores; softcap: scores become softcap * tanh(scores / softcap), 0.0 for none.
    sink: [heads], one more score of each head, of a slot without a value: it takes a share of the softmax.
    Returns [batch, heads, sequence, value head_dim].
    """
    sequence = query.shape[2]
    used = int(length.max())  # no slot beyond is seen, so none is read: 3 times faster for a short text
    key, value = key[:, :, :used], value[:, :, :used]
    if mask is not None:
        mask = mask[..., :used]
    else:
        slots = torch.arange(used, device=key.device)
        last_seen = (length - sequence)[:, None] + torch.arange(sequence, device=key.device)
        mask = (slots <= last_seen[:, :, None])[:, None]
    groups = query.shape[1] // key.shape[1]
    if not softcap and sink is None:
        out: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=groups > 1
        )
        return out.contiguous()
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if sink is not None:
        scores = torch.cat([scores, sink[:, None, None].expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)[..., :used] @ value


@attend.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
    sink: torch.Tensor | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])
