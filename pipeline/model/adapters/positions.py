"""Positions for models that take none: each row's own, in place of a number that holds for the whole batch."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.model.adapters.tables import Table, tables
from pipeline.model.arguments import takes_positions
from pipeline.model.cache import running


def give_positions(model: PreTrainedModel) -> None:
    """Let each position table of a model without position_ids answer with the rows of the running forward's."""
    if takes_positions(model):
        return
    for table in tables(model):
        table.module.register_forward_hook(_answer(table))


def _answer(table: Table) -> Any:
    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        cache = running.get(None)
        if cache is None:
            return output
        return functional.embedding(cache.position_ids + table.first, table.rows.to(output.dtype))

    return hook
