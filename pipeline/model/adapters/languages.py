"""Layers with a small module for each language (X-MOD): every row goes through that of the default language.

The model's code sorts the rows of a batch by their language, which no graph of fixed operators can follow.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def choose_language(model: PreTrainedModel) -> None:
    """Choose config.default_language, as the model's forward does where it is given no language."""
    language = getattr(model.config, "default_language", None)
    for module in model.modules():
        languages = getattr(module, "adapter_modules", None)
        if language is not None and isinstance(languages, nn.ModuleDict) and language in languages:
            module.lang_adapter = partial(_adapted, module, languages[language])


def _adapted(module: Any, adapter: nn.Module, _: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """The layer's `lang_adapter`, without the languages of the rows."""
    before = hidden
    if module.adapter_layer_norm is not None:
        hidden = module.adapter_layer_norm(hidden)
    elif module.adapter_reuse_layer_norm:
        hidden = module.LayerNorm(hidden)
    residual = hidden if module.ln_before_adapter else before
    adapted: torch.Tensor = adapter(hidden) + residual
    return adapted
