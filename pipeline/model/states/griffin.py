"""RecurrentGemma's recurrent blocks (Griffin), which keep their states in the module and not in the cache."""

from collections.abc import Iterator
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from pipeline.model.cache import StaticLayer, running

PARTS = ("linear_x", "linear_y", "conv_1d", "rg_lru", "conv1d_state")


def blocks(model: PreTrainedModel) -> Iterator[tuple[int, Any]]:
    """Each layer's index and its recurrent block."""
    for name, module in model.named_modules():
        if all(hasattr(module, part) for part in PARTS):
            yield next(int(part) for part in name.split(".") if part.isdigit()), module


def forget(model: PreTrainedModel) -> None:
    """Empty the states in a model's blocks: one token alone would be read as the next one of the text before."""
    for _, block in blocks(model):
        block.conv1d_state = block.rg_lru.recurrent_states = None


def states(block: Any) -> dict[str, torch.Tensor]:
    """A block's states as pipeline.model.states has them; a recurrence has a head for each channel."""
    return {"conv": block.conv1d_state, "recurrent": block.rg_lru.recurrent_states[..., None, None]}


def keep_block_states(model: PreTrainedModel) -> None:
    """Let the blocks read and write the states of the running forward's cache."""
    for index, block in blocks(model):
        block.forward = MethodType(_forward(index), block)
        block.rg_lru._rnn_scan = _scan(index)


def _forward(index: int) -> Any:
    def forward(block: Any, input_states: torch.Tensor, position_ids: torch.Tensor, *_: Any, **__: Any) -> Any:
        new = block.linear_x(input_states).transpose(1, 2)
        both = _layer(index).shift(new, "conv")
        conv: nn.Conv1d = block.conv_1d
        x = functional.conv1d(both, conv.weight, conv.bias, groups=conv.groups).transpose(1, 2)
        return block.linear_out(block.rg_lru(x, position_ids) * block.act_fn(block.linear_y(input_states))), None

    return forward


def _scan(index: int) -> Any:
    def scan(hidden_states: torch.Tensor, recurrent_gate: torch.Tensor, **_: Any) -> tuple[torch.Tensor, None]:
        """A sum that fades by `recurrent_gate`, both [batch, sequence, channels]. A text's first token needs no reset:
        it finds the state empty."""
        value = hidden_states.float()[..., None]
        one = torch.ones_like(value)
        out, _state = _layer(index).recur(one, one, value, recurrent_gate.float().log()[..., None], None)
        return out[..., 0].to(hidden_states.dtype), None

    return scan


def _layer(index: int) -> StaticLayer:
    layer: StaticLayer = running.get().layers[index]
    return layer
