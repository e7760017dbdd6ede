"""Which modules look positions up in a table by the length of the cache, and the rows that they begin with."""

import inspect
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Table:
    """A module that counts positions from the cache's length. first: the row of position 0."""

    module: nn.Module
    rows: torch.Tensor
    first: int


def tables(model: nn.Module) -> list[Table]:
    """The position tables of decoders of encoder-decoders, which take no position_ids."""
    found = []
    for module in model.modules():
        if "past_key_values_length" not in inspect.signature(module.forward).parameters:
            continue
        if isinstance(module, nn.Embedding):
            found.append(Table(module, module.weight, int(getattr(module, "offset", 0))))
        elif isinstance(getattr(module, "weights", None), torch.Tensor) and hasattr(module, "padding_idx"):
            found.append(Table(module, module.weights, module.padding_idx + 1))  # type: ignore[arg-type,operator]
    return found
