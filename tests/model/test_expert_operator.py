"""The operator for experts: each token through its experts, and nothing of the others."""

import pytest
import torch

from pipeline.model.expert_operator import FUNCTIONS, HALVES, INTERLEAVED, UNGATED, Activation
from tests.support.experts import CHOSEN, EXPERTS, Mixture, choice


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", [HALVES, INTERLEAVED, UNGATED])
def test_equals_dense_products(layout: str, transposed: bool) -> None:
    """All experts for all tokens, weighted with 0 where the router did not choose them."""
    mixture = Mixture(Activation(layout, "silu"), transposed=transposed, bias=True)
    hidden, indices, weights = choice(5)
    up, down = (w if transposed else w.transpose(1, 2) for w in (mixture.up, mixture.down))
    product = hidden @ up + mixture.up_bias[:, None]  # [experts, tokens, ...]
    if layout == UNGATED:
        inner = torch.nn.functional.silu(product)
    else:
        half = product.shape[2] // 2
        gate, up = (
            (product[..., :half], product[..., half:]) if layout == HALVES else (product[..., ::2], product[..., 1::2])
        )
        inner = torch.nn.functional.silu(gate) * up
    every = inner @ down + mixture.down_bias[:, None]
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
