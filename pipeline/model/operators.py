"""The static KV cache, recurrences and a mixture's experts as torch operators, each with an eager implementation and a
fake one for tracing.

`kvforge::scatter` writes new keys or values into the cache, `kvforge::attend` attends over the cache. They are
opaque to torch.export and stay one call each in a .pt2 file, and pipeline.export turns each into one standard ONNX
node. In PyTorch both are functional (the write clones the cache), as PyTorch is used for proof, not for speed. In the
engine the write is in place.
`kvforge::recur` runs a recurrence over the sequence; pipeline.graph.recurrence writes it as a Scan.
`kvforge::experts` takes tokens, the experts that the router chose for each, and the stacked weights of all experts as
the model has them, so no byte is stored twice. pipeline.graph.experts writes it in standard operators. Both read the
weights of chosen experts only.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional


@torch.library.custom_op("kvforge::scatter", mutates_args=())
def scatter(cache: torch.Tensor, update: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Write `update` into `cache` along the slot axis, each row from its own slot on: ONNX TensorScatter-24.

    cache: [batch, kv_heads, cache_size, head_dim]; update: [batch, kv_heads, sequence, head_dim];
    position: [batch] int64, slot of each row's first new token. Returns the new cache.
    A write past the end is the caller's error; it raises IndexError here.
    """
    slots = position[:, None] + torch.arange(update.shape[2], device=cache.device)  # [batch, sequence]
    rows = torch.arange(cache.shape[0], device=cache.device)[:, None]
    out = cache.clone()
    out[rows, :, slots] = update.transpose(1, 2)
    return out


@scatter.register_fake
def _(cache: torch.Tensor, update: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(cache)


@torch.library.custom_op("kvforge::attend", mutates_args=())
def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
    sink: torch.Tensor | None = None,
) -> torch.Tensor:
    """Grouped-query attention over the whole cache: ONNX Attention-24.

    query: [batch, heads, sequence, head_dim]; key, value: [batch, kv_heads, cache_size, head_dim];
    length: [batch] int64, used slots of each row, the new ones (padding too) included. Without a mask, new
    token i of a row sees the slots up to `length - sequence + i`: causal, aligned to the lower right.
    mask: [batch or 1, heads or 1, sequence, cache_size]; replaces that rule altogether. bool: True where a slot is
    seen; floating: added to the scores after scale and softcap, the lowest number where a slot is not seen.
    scale: factor on the scores; softcap: scores become softcap * tanh(scores / softcap), 0.0 for none.
    sink: [heads], one more score of each head, of a slot without a value: it takes a share of the softmax.
    Returns [batch, heads, sequence, value head_dim].
    """
    sequence = query.shape[2]
    used = int(length.max())  # no slot beyond is seen, so none is read: 3 times faster for a short text
    key, value = key[:, :, :used], value[:, :, :used]
    if mask is not None:
        mask = mask[..., :used]
    else:
        slots = torch.arange(used, device=key.device)
        last_seen = (length - sequence)[:, None] + torch.arange(sequence, device=key.device)
        mask = (slots <= last_seen[:, :, None])[:, None]
    groups = query.shape[1] // key.shape[1]
    if not softcap and sink is None:
        out: torch.Tensor = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=groups > 1
        )
        return out.contiguous()
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    if sink is not None:
        scores = torch.cat([scores, sink[:, None, None].expand(*scores.shape[:3], 1)], -1)
    return scores.softmax(-1)[..., :used] @ value


@attend.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    length: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
    sink: torch.Tensor | None = None,
) -> torch.Tensor:
    return query.new_empty(*query.shape[:3], value.shape[3])


@torch.library.custom_op("kvforge::recur", mutates_args=())
def recur(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Linear attention as a recurrence, in fp32: the gated delta rule (Yang et al. 2024, arXiv 2412.06464), and without
    beta gated linear attention, which Mamba 2 is (Dao and Gu 2024, arXiv 2405.21060).

    query, key: [batch, sequence, heads, key_dim]; value: [batch, sequence, heads, value_dim]; decay: logarithms
    [batch, sequence, heads, 1 or key_dim]; beta: [batch, sequence, heads]; state: [batch, heads, key_dim, value_dim].
    Token by token the state is multiplied by exp(decay), gains key x value, or with beta key x beta * (value - what the
    state gives for the key), and gives the output query @ state. A token of decay 0, and of beta or value 0, leaves the
    state as it is. Returns the outputs [batch, sequence, heads, value_dim], and the state after the last token.
    """
    outputs = []
    for i in range(query.shape[1]):
        state = state * decay[:, i, :, :, None].exp()
        added = value[:, i, :, None]  # [batch, heads, 1, value_dim]
        if beta is not None:
            added = (added - key[:, i, :, None] @ state) * beta[:, i, :, None, None]
        state = state + key[:, i, :, :, None] * added
        outputs.append(query[:, i, :, None] @ state)
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), state


@recur.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    decay: torch.Tensor,
    beta: torch.Tensor | None,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    return value.new_empty(value.shape), state.new_empty(state.shape)


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
    for expert in set(indices.flatten().tolist()):
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
    return hidden.new_empty(hidden.shape)  # contiguous, whatever the strides of the input
