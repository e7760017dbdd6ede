"""Recurrences over the sequence: linear attention and state spaces, each as one operator of ours.

transformers runs them in a loop over tokens or in chunks of a fixed length, neither of which is one graph for every
length, and padding enters the state. Each form here is the same recurrence of a state [batch, heads, key_dim,
value_dim] (operators.recur): gated delta rule (Qwen3-Next, Qwen3.5, OLMo Hybrid), the same with a decay of each channel
(Kimi Linear), Mamba 2, and Mamba, which has a head for each channel.
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from pipeline.model.cache import StaticLayer, running

EPSILON = 1e-6  # of the norms of queries and keys, in all models


@dataclass(frozen=True)
class Recurrence:
    """What stands in the place of a function of transformers.

    run: takes a layer, then the arguments of the function. to_heads: turns transformers' state into [batch, heads,
    key_dim, value_dim]. begins_anew: whether the function takes no state to begin with.
    """

    run: Callable[..., Any]
    to_heads: Callable[[torch.Tensor], torch.Tensor]
    begins_anew: bool = False


def _delta_rule(
    layer: StaticLayer,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    *,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query, key: [batch, sequence, key heads, key_dim]; value: [batch, sequence, heads, value_dim]; g: logarithm of
    the decay, [batch, sequence, heads] or [batch, sequence, heads, key_dim]; beta: [batch, sequence, heads]."""
    repeats = value.shape[2] // key.shape[2]
    query, key = (_normed(x.float(), use_qk_l2norm_in_kernel).repeat_interleave(repeats, 2) for x in (query, key))
    query = query * query.shape[-1] ** -0.5
    decay = g.float() if g.ndim == key.ndim else g.float()[..., None]
    out, state = layer.recur(query, key, value.float(), decay, beta.float())
    return out.to(value.dtype), state


def _normed(x: torch.Tensor, wanted: bool) -> torch.Tensor:
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + EPSILON) if wanted else x


def _mamba2(
    layer: StaticLayer,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    rate: torch.Tensor,
    keys: torch.Tensor,
    queries: torch.Tensor,
    *,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden_states: [batch, sequence, heads, value_dim]; dt: [batch, sequence, heads]; rate, in the papers A, and D:
    [heads]; keys and queries, B and C: [batch, sequence, groups, key_dim]."""
    step = dt if dt_bias is None else dt + dt_bias.to(dt.dtype)
    step = (functional.softplus(step) if dt_softplus else step).clamp(*dt_limit).float()
    hidden = hidden_states.float()
    repeats = hidden.shape[2] // keys.shape[2]
    key, query = (x.float().repeat_interleave(repeats, 2) for x in (keys, queries))
    out, state = layer.recur(query, key, hidden * step[..., None], (rate.float() * step)[..., None], None)
    skip = more.get("D")
    return (out if skip is None else out + skip[..., None] * hidden), state


def _mamba(
    layer: StaticLayer,
    hidden_states: torch.Tensor,
    dt: torch.Tensor,
    rate: torch.Tensor,
    keys: torch.Tensor,
    queries: torch.Tensor,
    *,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    **more: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """hidden_states, dt, z: [batch, channels, sequence]; rate, in the paper A: [channels, key_dim]; keys and queries,
    B and C: [batch, key_dim, sequence]; D: [channels]."""
    step = dt if delta_bias is None else dt + delta_bias.to(dt.dtype)[..., None]
    step = (functional.softplus(step) if delta_softplus else step).float().transpose(1, 2)[..., None]
    hidden = hidden_states.float().transpose(1, 2)[..., None]  # [batch, sequence, channels, 1]
    channels = hidden.shape[2]
    key, query = (x.float().transpose(1, 2)[:, :, None].expand(-1, -1, channels, -1) for x in (keys, queries))
    out, state = layer.recur(query, key, hidden * step, rate.float() * step, None)
    out = out[..., 0].transpose(1, 2).to(hidden_states.dtype)
    if more.get("D") is not None:
        out = out + hidden_states * more["D"][None, :, None]
    return (out if z is None else out * functional.silu(z)), state


def _convolve(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> torch.Tensor:
    """The causal convolution of [batch, channels, kernel size - 1 + sequence], which begin with a layer's state, with
    weight [channels, kernel size]: [batch, channels, sequence]. transformers pads first, as if there were no state."""
    out = functional.conv1d(hidden_states.to(weight.dtype), weight[:, None], bias, groups=weight.shape[0])
    return (out if activation is None else ACT2FN[activation](out)).to(hidden_states.dtype)


# the name of a function of transformers, which several models have a copy of
RECURRENCES = {
    "torch_chunk_gated_delta_rule": Recurrence(_delta_rule, lambda state: state),
    "chunk_kimi_delta_attention": Recurrence(_delta_rule, lambda state: state),
    "mamba2_chunk_scan": Recurrence(_mamba2, lambda state: state.mT),
    "mamba_selective_scan": Recurrence(_mamba, lambda state: state.flatten(1, -2)[..., None], begins_anew=True),
}
CONVOLUTION = "causal_conv1d_fn"


def _forward(module: nn.Module) -> FunctionType | None:
    """The forward of a module's class without decorators; None for a class without one in Python."""
    found = inspect.unwrap(type(module).forward)
    return found if isinstance(found, FunctionType) else None


def names(name: str, module: nn.Module) -> bool:
    """Whether the forward of a module's class reads something by this name, such as a function."""
    forward = _forward(module)
    return forward is not None and name in forward.__code__.co_names


def recurrences(model: PreTrainedModel) -> Iterator[tuple[int, nn.Module, str]]:
    """Each layer's index, its module that runs a recurrence, and the name of the function."""
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int):
            yield from ((index, module, name) for name in RECURRENCES if names(name, module))


def known_layers(model: PreTrainedModel) -> set[int]:
    """The indices of layers that run a convolution or a recurrence over the sequence by a function that is known."""
    convolving = set()
    for module in model.modules():
        index = getattr(module, "layer_idx", None)
        if isinstance(index, int) and names(CONVOLUTION, module):
            convolving.add(index)
    return convolving | {index for index, _, _ in recurrences(model)}


def keep_states(model: PreTrainedModel) -> None:
    """Let recurrences and convolutions over the sequence read and write the states of the running forward's cache. Each
    module gets its class's forward, with functions of ours in the place of those that it calls by name."""
    recurring = {id(module): (index, name) for index, module, name in recurrences(model)}
    for module in model.modules():
        forward = _forward(module)
        if forward is None:
            continue
        functions: dict[str, Callable[..., Any]] = {}
        if id(module) in recurring:
            index, name = recurring[id(module)]
            functions[name] = _in_layer(RECURRENCES[name].run, index)
        if names(CONVOLUTION, module):
            functions[CONVOLUTION] = _convolve
        if functions:
            own = {**forward.__globals__, **functions}
            copy = FunctionType(forward.__code__, own, forward.__name__, forward.__defaults__, forward.__closure__)
            copy.__kwdefaults__ = forward.__kwdefaults__
            module.forward = MethodType(copy, module)


def _in_layer(run: Callable[..., Any], index: int) -> Callable[..., Any]:
    return lambda *arguments, **options: run(running.get().layers[index], *arguments, **options)
