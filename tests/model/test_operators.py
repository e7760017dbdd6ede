"""The operators against the plainest way to say what they do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import operators
from pipeline.model.operators import FUNCTIONS, HALVES, INTERLEAVED, UNGATED, Activation
from tests.support import recurrences
from tests.support.experts import CHOSEN, EXPERTS, Mixture, choice

SLOTS = 12


@given(data=st.data(), batch=st.integers(1, 3), sequence=st.integers(1, 5))
def test_scatter_writes_each_row_from_its_own_slot(data: st.DataObject, batch: int, sequence: int) -> None:
    """Every row's new values stand at its own slots, all other slots are as before, the cache given is unchanged."""
    position = data.draw(st.lists(st.integers(0, SLOTS - sequence), min_size=batch, max_size=batch))
    cache, update = torch.randn(batch, 2, SLOTS, 4), torch.randn(batch, 2, sequence, 4)
    want = cache.clone()
    for row, start in enumerate(position):
        want[row, :, start : start + sequence] = update[row]
    before = cache.clone()
    assert torch.equal(operators.scatter(cache, update, torch.tensor(position)), want)
    assert torch.equal(cache, before)


def test_scatter_past_the_end_is_an_error() -> None:
    """PyTorch refuses a write past the last slot instead of wrapping or clamping it."""
    with pytest.raises(IndexError):
        operators.scatter(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 2, 2), torch.tensor([3]))


def naive(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, seen: np.ndarray, softcap: float, sink: float = -np.inf
) -> np.ndarray:
    """One head, one row: softmax over the slots that each token sees, and the sink; [sequence, head_dim]."""
    out = np.zeros((len(query), value.shape[1]))
    for i, token in enumerate(query):
        scores = key[seen[i]] @ token * 0.5
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        most = max(scores.max(), sink)
        weights = np.exp(scores - most)
        out[i] = weights / (weights.sum() + np.exp(sink - most)) @ value[seen[i]]
    return out


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sinks", [None, [-3.0, 0.0, 1.0, 40.0]])
def test_attend_equals_the_definition(softcap: float, masked: bool, sinks: list[float] | None) -> None:
    """Grouped heads, rows of different lengths, with and without a mask, soft-capping and a sink for each head."""
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=rng)
    key, value = (torch.randn(2, 2, SLOTS, 8, generator=rng) for _ in range(2))
    length = torch.tensor([3, 9])
    seen = torch.arange(SLOTS) <= (length - 3)[:, None, None] + torch.arange(3)[:, None]  # [row, token, slot]
    if masked:
        seen &= torch.arange(SLOTS) > (length - 3)[:, None, None] + torch.arange(3)[:, None] - 2
    sink = None if sinks is None else torch.tensor(sinks)
    got = operators.attend(query, key, value, length, seen[:, None] if masked else None, 0.5, softcap, sink)
    for row in range(2):
        for head in range(4):
            q, k, v = (t[row, h].numpy() for t, h in ((query, head), (key, head // 2), (value, head // 2)))
            want = naive(q, k, v, seen[row].numpy(), softcap, -np.inf if sinks is None else sinks[head])
            np.testing.assert_allclose(got[row, head].numpy(), want, atol=1e-5)


def test_operators_pass_torchs_own_check() -> None:
    """torch.library.opcheck: schema, fake implementation and eager one agree."""
    cache, new = torch.randn(2, 2, SLOTS, 4), torch.randn(2, 2, 3, 4)
    torch.library.opcheck(operators.scatter, (cache, new, torch.tensor([0, 5])))
    for sink in (None, torch.randn(4)):
        torch.library.opcheck(
            operators.attend, (torch.randn(2, 4, 3, 4), cache, cache, torch.tensor([3, 9]), None, 0.5, 0.0, sink)
        )


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", [HALVES, INTERLEAVED, UNGATED])
def test_equals_dense_products(layout: str, transposed: bool) -> None:
    """All experts for all tokens, weighted with 0 where the router did not choose them."""
    mixture = Mixture(Activation(layout, "silu"), transposed=transposed, bias=True)
    hidden, indices, weights = choice(5)
    up, down = (w if transposed else w.transpose(1, 2) for w in (mixture.up, mixture.down))
    bias = [mixture.get_parameter(name) for name in ("up_bias", "down_bias")]
    product = hidden @ up + bias[0][:, None]  # [experts, tokens, ...]
    if layout == UNGATED:
        inner = torch.nn.functional.silu(product)
    else:
        half = product.shape[2] // 2
        gate, up = (
            (product[..., :half], product[..., half:]) if layout == HALVES else (product[..., ::2], product[..., 1::2])
        )
        inner = torch.nn.functional.silu(gate) * up
    every = inner @ down + bias[1][:, None]
    dense = torch.zeros(5, EXPERTS).scatter(1, indices, weights)
    torch.testing.assert_close(
        mixture(hidden, indices, weights), torch.einsum("eth,te->th", every, dense), rtol=1e-4, atol=1e-4
    )


def test_weights_of_other_experts_are_not_read() -> None:
    """NaN there changes nothing."""
    mixture = Mixture(Activation(HALVES, "silu"))
    given = choice(3, of=CHOSEN)
    before = mixture(*given)
    with torch.no_grad():
        mixture.up[CHOSEN:] = torch.nan
    assert torch.equal(mixture(*given), before)


def test_an_expert_that_is_chosen_twice_counts_twice() -> None:
    """As a sum over the router's choice says."""
    mixture = Mixture(Activation(HALVES, "silu"))
    hidden, _, _ = choice(1)
    twice = mixture(hidden, torch.tensor([[3, 3]]), torch.tensor([[0.25, 0.5]]))
    once = mixture(hidden, torch.tensor([[3, 0]]), torch.tensor([[0.75, 0.0]]))
    torch.testing.assert_close(twice, once)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_torchs(function: str) -> None:
    """By the names that transformers uses."""
    f = torch.nn.functional
    wanted = {
        "silu": f.silu,
        "gelu": f.gelu,
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "relu": f.relu,
        "relu2": lambda x: f.relu(x) ** 2,
    }
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(Activation(UNGATED, function)(x), wanted[function](x))


@pytest.mark.parametrize(("after", "gate"), [(False, 2 / (1 + 2.718281828**-2)), (True, 2.0)])
def test_limits_hold_before_or_after_the_function(after: bool, gate: float) -> None:
    """The gate's top, and both ends of up; shift is added after it."""
    activation = Activation(HALVES, "silu", limit=2.0, limit_after=after, shift=1.0)
    torch.testing.assert_close(activation(torch.tensor([[9.0, -9.0]])), torch.tensor([[gate * -1.0]]))


def test_dtype_and_shape_are_those_of_the_tokens() -> None:
    """Weights of the router in fp32 are applied in fp32; the result has the tokens' type, in tracing as well."""
    mixture = Mixture(Activation(HALVES, "silu")).half()
    hidden, indices, weights = choice(4)
    out = mixture(hidden.half(), indices, weights)
    assert (out.dtype, out.shape) == (torch.float16, hidden.shape)
    given = (hidden.half(), indices, weights, mixture.up.data, mixture.down.data, None, None, False, HALVES, "silu")
    torch.library.opcheck(
        torch.ops.kvforge.experts.default, (*given, 1.0, 0.0, False, 0.0), test_utils="test_faketensor"
    )


@given(st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_a_recurrence_in_pieces_and_with_padding(batch: int, pieces: list[int], delta: bool, by_key: bool) -> None:
    """Cut anywhere, with padding behind each piece: bit by bit the states and outputs of the whole."""
    drawn = recurrences.inputs(batch, sum(pieces) + 1, delta=delta, by_key=by_key, seed=len(pieces))
    whole, last = operators.recur(*map(drawn.get, recurrences.NAMES))
    padding = recurrences.inputs(batch, 2, delta=delta, by_key=by_key, seed=1)
    padding |= {name: torch.zeros_like(padding[name]) for name in ("decay", "beta", "value") if name in padding}
    state, start, outs = drawn["state"], 0, []
    for piece in (*pieces, 1):
        part = {name: tensor[:, start : start + piece] for name, tensor in drawn.items() if name != "state"}
        padded = {name: torch.cat([tensor, padding[name]], 1) for name, tensor in part.items()}
        out, state = operators.recur(*map((padded | {"state": state}).get, recurrences.NAMES))
        outs.append(out[:, :piece])
        start += piece
    assert torch.equal(torch.cat(outs, 1), whole)
    assert torch.equal(state, last)
