"""How a model gets positions that it takes no position_ids for: from tables, or by ALiBi from the slots."""

import inspect
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Table:
    """A module that counts positions from the cache's length. first: the row of position 0."""

    module: nn.Module
    rows: torch.Tensor
    first: int


def tables(model: PreTrainedModel) -> list[Table]:
    """The position tables of decoders of encoder-decoders, which take no position_ids. None where rows rotate queries
    and keys (RoFormer): they are read as the same for the whole batch."""
    if any(hasattr(module, "apply_rotary_position_embeddings") for module in model.modules()):
        return []
    found = []
    for module in model.modules():
        if "past_key_values_length" not in inspect.signature(module.forward).parameters:
            continue
        if isinstance(module, nn.Embedding):
            found.append(Table(module, module.weight, int(getattr(module, "offset", 0))))
        elif isinstance(getattr(module, "weights", None), torch.Tensor) and hasattr(module, "padding_idx"):
            found.append(Table(module, module.weights, module.padding_idx + 1))
    return found


def has_alibi(model: PreTrainedModel) -> bool:
    """Whether biases on the scores stand for positions: they follow from the slots, which are each row's own."""
    chosen = getattr(model.config, "alibi", None)  # Falcon has rotary embeddings, or these
    if chosen is not None:
        return bool(chosen)
    return any("alibi" in name for module in model.modules() for name in dir(type(module)))
