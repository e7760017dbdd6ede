"""Causal masks that a model keeps as a table by place in the text, as GPT-Neo does: a rule by slots in their place.

Also numbers that a model keeps as tensors, which a traced graph would compute with.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from pipeline.model.cache import running


class Window:
    """Stands for a bool table [1, 1, positions, positions], whatever part of it is read."""

    def __init__(self, width: int | None) -> None:
        self.width = width

    def __getitem__(self, _: Any) -> torch.Tensor:
        """[batch, 1, sequence, cache_size]: the slots within the window; one value if those are all, as there is a
        causal mask besides."""
        if self.width is None:
            return torch.ones((), dtype=torch.bool)
        cache = running.get()
        query = cache.position[:, None] + torch.arange(cache.new_tokens, device=cache.position.device)
        slots = torch.arange(cache.get_max_length(), device=cache.position.device)
        return slots > query[:, None, :, None] - self.width


def replace_tables(model: PreTrainedModel) -> None:
    """Put a Window in place of each table of a causal mask, and a number in place of each tensor that holds one."""
    for module in model.modules():
        table = module._buffers.get("bias")
        if table is not None and table.dtype == torch.bool and table.ndim == 4:
            width = int(table[0, 0, -1].sum())  # the last place sees this many
            del module.bias
            module.bias = Window(width if width < table.shape[-1] else None)
        _plain_numbers(module)


def _plain_numbers(module: nn.Module) -> None:
    for name, value in list(vars(module).items()):
        if isinstance(value, torch.Tensor) and value.ndim == 0 and value.is_floating_point():
            setattr(module, name, float(value))
