"""Let a mixture's experts run through `kvforge::experts`: every module with stacked weights of experts.

transformers lets callers register an implementation of experts, as of attention; most mixtures take it. Experts outside
that interface get a forward of their own, if they take the same arguments.
What an expert computes between its two products is found by trying: the module's own function on a range of numbers,
against the few forms that the operator has.
"""

import inspect
import itertools
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from pipeline.core.tables.refusals import Category
from pipeline.model import operators
from pipeline.model.operators import FUNCTIONS, HALVES, INTERLEAVED, UNGATED, Activation
from pipeline.model.refusals import unsupported

IMPLEMENTATION = "kvforge"
ARGUMENTS = ["hidden_states", "top_k_index", "top_k_weights"]  # of the forward of experts
NUMBERS = torch.cat([torch.linspace(-12, 12, 61), torch.tensor([-1000.0, 0.0, 1000.0])])
PAIRS = torch.cartesian_prod(NUMBERS, NUMBERS)
SAMPLE = torch.cat([PAIRS, PAIRS.flip(0)], 1)  # what activations are tried on: in rows of four, layouts differ
CLOSE = 1e-5  # relative; the nearest two forms, both of gelu, differ by 1e-3


def adapt_experts(model: PreTrainedModel) -> None:
    """Replace the computation of a model's experts. Raises UserError for an activation that the operator has not."""
    found = False
    for module in model.modules():
        _stack_rows(module)
        if _in_interface(module):
            found = True
        elif _like_interface(module):
            module.forward = MethodType(_forward, module)
            routed = module.down_proj.shape[0]
            if module.gate_up_proj.shape[0] > routed:  # LongCat has unused rows for experts without weights
                module.gate_up_proj = nn.Parameter(module.gate_up_proj.detach()[:routed].clone())
        else:
            continue
        module.kvforge_activation = _activation(module)
    if found:
        model.set_experts_implementation(IMPLEMENTATION)


def _in_interface(module: nn.Module) -> bool:
    """Whether its class is one that transformers dispatches: `use_experts_implementation` sets these attributes."""
    return hasattr(module, "has_gate") and hasattr(module, "is_transposed")


def _like_interface(module: nn.Module) -> bool:
    """Whether it holds the same stacked weights and takes the same arguments."""
    shapes = [getattr(getattr(module, name, None), "ndim", 0) for name in ("gate_up_proj", "down_proj")]
    return shapes == [3, 3] and list(inspect.signature(module.forward).parameters) == ARGUMENTS


def _stack_rows(module: Any) -> None:
    """Give stacks to experts whose weights are rows of three matrices, [experts * intermediate_size, hidden_size], as
    DBRX has them."""
    inner: Any = getattr(module, "mlp", None)
    if not all(hasattr(inner, name) for name in ("w1", "v1", "w2")) or not hasattr(module, "num_experts"):
        return
    gate, up, down = (
        weight.detach().unflatten(0, (module.num_experts, -1)) for weight in (inner.w1, inner.v1, inner.w2)
    )
    module.gate_up_proj = nn.Parameter(torch.cat([gate, up], 1))
    module.down_proj = nn.Parameter(down.transpose(1, 2).contiguous())
    module.act_fn = inner.activation_fn
    del module.mlp


def _activation(module: Any) -> Activation:
    """What the module computes between its products."""
    if getattr(module, "has_post_expert_norm", False):
        raise unsupported(type(module).__name__, "its experts end in a norm", Category.EXPERTS)
    gated = getattr(module, "has_gate", True)
    function = getattr(module, "_apply_gate", partial(_gate, module)) if gated else module.act_fn
    numbers = {name: value for name, value in vars(module).items() if isinstance(value, int | float)}
    limits = [value for name, value in numbers.items() if name.endswith("limit") and 0 < value < float("inf")]
    alphas = [value for name, value in numbers.items() if name.endswith("alpha")]
    tried = itertools.product(
        (HALVES, INTERLEAVED) if gated else (UNGATED,),
        FUNCTIONS,
        (1.0, 1.702, *alphas),
        (0.0, *limits),
        (False, True) if limits else (False,),
        (0.0, 1.0) if gated else (0.0,),
    )
    with torch.no_grad():
        wanted = function(SAMPLE)
        for form in tried:
            activation = Activation(*form)
            if torch.allclose(activation(SAMPLE), wanted, rtol=CLOSE, atol=CLOSE):
                return activation
    why = f"the activation of its experts is none of {', '.join(FUNCTIONS)}"
    raise unsupported(type(module).__name__, why, Category.EXPERTS)


def _gate(module: Any, product: torch.Tensor) -> torch.Tensor:
    """What experts compute that do not say it in a method."""
    gate, up = product.chunk(2, -1)
    result: torch.Tensor = module.act_fn(gate) * up
    return result


def _forward(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """The experts' forward. Indices past the last expert are experts that give their input back."""
    routed, shape = module.down_proj.shape[0], hidden_states.shape
    hidden_states = hidden_states if len(shape) == 2 else hidden_states.flatten(0, 1)
    arguments: tuple[Any, ...] = (hidden_states, top_k_index, top_k_weights)
    identity = None
    if getattr(module, "identity_expert", None) is not None:
        real = top_k_index < routed
        identity = hidden_states * top_k_weights.masked_fill(real, 0).sum(-1, keepdim=True)
        arguments = (hidden_states, top_k_index.clamp(max=routed - 1), top_k_weights.masked_fill(~real, 0))
    activation: Activation = module.kvforge_activation
    has_bias = getattr(module, "has_bias", False)
    first = "gate_up_proj" if activation.layout != UNGATED else "up_proj"
    out: torch.Tensor = operators.experts(
        *arguments,
        getattr(module, first),
        module.down_proj,
        getattr(module, f"{first}_bias") if has_bias else None,
        module.down_proj_bias if has_bias else None,
        getattr(module, "is_transposed", False),
        activation.layout,
        activation.function,
        activation.alpha,
        activation.limit,
        activation.limit_after,
        activation.shift,
    )
    out = out if identity is None else out + identity.to(out.dtype)
    return out if len(shape) == 2 else out.view(shape)


ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _forward)
