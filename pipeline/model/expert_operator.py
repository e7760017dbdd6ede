"""Experts of a mixture as one torch operator, with an eager implementation and a fake one for tracing.

`kvforge::experts` takes tokens, the experts that the router chose for each, and the stacked weights of all experts as
they are, so no byte is stored twice. It is opaque to torch.export; pipeline.graph.experts writes it in standard ONNX
operators. Both read the weights of chosen experts only.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

HALVES, INTERLEAVED, UNGATED = "halves", "interleaved", "ungated"  # where gate and up are in the first product


@dataclass(frozen=True)
class Activation:
    """What stands between the two products of an expert: function(gate) * (up + shift), or function(up) without a gate.

    function: a name of FUNCTIONS. alpha: of silu, x * sigmoid(alpha * x). limit: gate is at most this and up between
    -limit and limit, 0 for none; limit_after: the gate's limit holds after the function, not before.
    """

    layout: str
    function: str
    alpha: float = 1.0
    limit: float = 0.0
    limit_after: bool = False
    shift: float = 0.0

    def __call__(self, product: torch.Tensor) -> torch.Tensor:
        """Apply it to the first product [..., 2 * intermediate], or [..., intermediate] without a gate."""
        if self.layout == UNGATED:
            return self._function(product)
        gate, up = product.chunk(2, -1) if self.layout == HALVES else (product[..., ::2], product[..., 1::2])
        if self.limit:
            gate = gate if self.limit_after else gate.clamp(max=self.limit)
            up = up.clamp(-self.limit, self.limit)
        gate = self._function(gate)
        if self.limit and self.limit_after:
            gate = gate.clamp(max=self.limit)
        return gate * (up + self.shift if self.shift else up)

    def _function(self, x: torch.Tensor) -> torch.Tensor:
        if self.function == "silu":
            return x * torch.sigmoid(x * self.alpha)
        if self.function == "relu2":
            return functional.relu(x).square()
        if self.function == "relu":
            return functional.relu(x)
        return functional.gelu(x, approximate="tanh" if self.function == "gelu_tanh" else "none")


FUNCTIONS = ("silu", "gelu", "gelu_tanh", "relu", "relu2")


@torch.library.custom_op("kvforge::experts", mutates_args=())
def experts(
    hidden: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
    transposed: bool,
    layout: str,
    function: str,
    alpha: float,
    limit: float,
    limit_after: bool,
    shift: float,
) -> torch.Tensor:
    """Send each token through its experts and sum the results with the router's weights.

    hidden: [tokens, hidden_size]; indices: [tokens, k] int64, the chosen experts; weights: [tokens, k], of any sum;
    up: [experts, 2 * intermediate, hidden_size], gate included, or [experts, intermediate, hidden_size] without one;
    down: [experts, hidden_size, intermediate]; both with the last two axes swapped when `transposed`; biases without
    the last axis. `down` says how many experts there are. The other arguments: see Activation.
    Returns [tokens, hidden_size].
    """
    activation = Activation(layout, function, alpha, limit, limit_after, shift)
    total = torch.zeros(hidden.shape, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
    for expert in indices.unique().tolist():
        tokens, places = torch.where(indices == expert)
        product = _linear(hidden[tokens], up, up_bias, expert, transposed)
        product = _linear(activation(product), down, down_bias, expert, transposed)
        total.index_add_(0, tokens, (product * weights[tokens, places, None]).to(total.dtype))
    return total.to(hidden.dtype)


def _linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, expert: int, transposed: bool
) -> torch.Tensor:
    matrix = weight[expert].T if transposed else weight[expert]
    return functional.linear(x, matrix, None if bias is None else bias[expert])


@experts.register_fake
def _(
    hidden: torch.Tensor,
    indices: torch.Tensor,
    weights: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    up_bias: torch.Tensor | None,
    down_bias: torch.Tensor | None,
    transposed: bool,
    layout: str,
    function: str,
    alpha: float,
    limit: float,
    limit_after: bool,
    shift: float,
) -> torch.Tensor:
    return torch.empty_like(hidden)
