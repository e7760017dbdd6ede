"""Queries that are scaled by their position in layers without positions (Llama 4): every row's own positions."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.model.cache import running


def scale_by_own_position(model: PreTrainedModel) -> None:
    """Scale at the projection of the queries. The model's own code takes one position for all rows, from the length of
    the cache."""
    for module in model.modules():
        if getattr(module, "attn_temperature_tuning", False) and not getattr(module, "use_rope", True):
            module.attn_temperature_tuning = False
            _scale_queries(module)


def _scale_queries(attention: Any) -> None:
    floor, factor = float(attention.floor_scale), float(attention.attn_scale)

    def scaled(_module: nn.Module, _args: Any, query: torch.Tensor) -> torch.Tensor:
        cache = running.get()
        slots = cache.position[:, None] + torch.arange(query.shape[1], device=query.device)  # [batch, sequence]
        scales = torch.log1p(torch.floor((slots.float() + 1.0) / floor)) * factor + 1.0
        return (query * scales[:, :, None]).to(query.dtype)

    attention.q_proj.register_forward_hook(scaled)
