"""Latent attention (DeepSeek-V2 and later) over the latents themselves.

The cache holds one latent and one rotated key part for each slot. The model's own code expands all slots to the keys
and values of every head in each step. Both expansions are linear, so they are taken to the other side of the products:
queries go into the latents' space, and the latents' weighted sum comes out of it. The scores and results are the same
numbers up to rounding, and a step's work no longer grows with the slots times the heads' width.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

SIZES = ("num_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")


class Absorbed(nn.Module):
    """The two halves of an attention's `kv_b_proj`."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        heads, width = attention.num_heads, attention.qk_nope_head_dim
        weight = attention.kv_b_proj.weight.detach().view(heads, -1, attention.kv_lora_rank)
        self.keys = nn.Parameter(weight[:, :width].clone())  # [heads, qk_nope_head_dim, kv_lora_rank]
        self.values = nn.Parameter(weight[:, width:].transpose(1, 2).contiguous())  # [heads, kv_lora_rank, v_head_dim]

    def before(
        self, query: torch.Tensor, latents: torch.Tensor, rotated: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [batch, heads, sequence, kv_lora_rank + qk_rope_head_dim], and the keys and values of one head."""
        width = self.keys.shape[1]
        query = torch.cat([query[..., :width] @ self.keys, query[..., width:]], -1)
        return query, torch.cat([latents, rotated], -1), latents

    def after(self, out: torch.Tensor) -> torch.Tensor:
        """[batch, heads, sequence, kv_lora_rank] -> [batch, heads, sequence, v_head_dim]."""
        return out @ self.values


def absorb_expansion(model: PreTrainedModel) -> None:
    """Give every latent attention its `absorbed`, which pipeline.model.attention uses, in place of `kv_b_proj`."""
    for module in model.modules():
        if not hasattr(module, "expand_kv") or not isinstance(getattr(module, "kv_b_proj", None), nn.Linear):
            continue
        if not all(hasattr(module, name) for name in SIZES) or module.kv_b_proj.bias is not None:
            continue
        absorbed = Absorbed(module)
        if _is_same(module, absorbed):
            module.absorbed = absorbed
            module.expand_kv = _nothing
            del module.kv_b_proj


def _nothing(latents: torch.Tensor, rotated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In place of the expansion: the cache's buffers as they are."""
    return latents, rotated


def _is_same(module: Any, absorbed: Absorbed) -> bool:
    """Whether an attention's expansion is the linear one that `absorbed` is made of."""
    kind = absorbed.keys.dtype
    draw = torch.Generator().manual_seed(0)
    latents, rotated = (
        torch.randn(1, 1, 2, size, generator=draw).to(kind) for size in (module.kv_lora_rank, module.qk_rope_head_dim)
    )
    with torch.no_grad():
        keys, values = module.expand_kv(latents, rotated)
        wanted = torch.cat([latents @ absorbed.keys.mT, rotated.expand(-1, module.num_heads, -1, -1)], -1)
        pairs = ((keys, wanted), (values, latents @ absorbed.values))
        return all(a.shape == b.shape and torch.allclose(a, b, rtol=0.02, atol=0.02) for a, b in pairs)
