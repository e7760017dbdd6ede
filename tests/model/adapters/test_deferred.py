"""Attention written out in the forms that models have, against attention by PyTorch."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.model.adapters.deferred import Keys, UnknownForm, Values

BATCH, HEADS, SEQUENCE, SLOTS, WIDTH = 2, 4, 3, 8, 16
LOWEST = torch.finfo(torch.float32).min


@dataclass
class Step:
    """What a stand-in reads of a running forward."""

    length: torch.Tensor
    causal_mask: torch.Tensor | None = None
    attended: list[torch.Tensor] = field(default_factory=list)

    def attend(self, _: None, keys: torch.Tensor) -> None:
        """Note keys."""
        self.attended.append(keys)


Form = Callable[[torch.Tensor, Any, Any, torch.Tensor, torch.Tensor], torch.Tensor]


def four_axes(query: torch.Tensor, keys: Any, values: Any, mask: torch.Tensor, alibi: torch.Tensor) -> torch.Tensor:
    """As GPT-J, and CTRL with its bias."""
    scores = torch.matmul(query.to(torch.float32), keys.to(torch.float32).permute(0, 1, 3, 2)) / math.sqrt(WIDTH)
    weights = functional.softmax(scores + alibi + mask, dim=-1).to(values.dtype)
    return torch.matmul(functional.dropout(weights, p=0.1, training=False), values)


def three_axes(query: torch.Tensor, keys: Any, values: Any, mask: torch.Tensor, alibi: torch.Tensor) -> torch.Tensor:
    """As BLOOM, and the decoders of fairseq with their checks."""
    joined = (BATCH * HEADS, -1, WIDTH)
    query, keys, values = query.reshape(*joined), keys.reshape(*joined), values.reshape(joined)
    bias = alibi.expand(BATCH, HEADS, SEQUENCE, SLOTS).reshape(-1, SEQUENCE, SLOTS)
    scores = bias.baddbmm(batch1=query, batch2=keys.transpose(1, 2), beta=1.0, alpha=WIDTH**-0.5)
    assert scores.size() == (BATCH * HEADS, SEQUENCE, SLOTS)
    scores = scores.view(BATCH, HEADS, SEQUENCE, SLOTS) + mask
    scores = torch.max(scores, torch.full((), torch.finfo(scores.dtype).min)).view(-1, SEQUENCE, SLOTS)
    out = torch.bmm(scores.softmax(-1), values)
    assert out.size() == (BATCH * HEADS, SEQUENCE, WIDTH)
    return out.view(BATCH, HEADS, SEQUENCE, WIDTH)


def filled(query: torch.Tensor, keys: Any, values: Any, mask: torch.Tensor, alibi: torch.Tensor) -> torch.Tensor:
    """As MPT; the scores change in place."""
    scores = query @ keys.transpose(-1, -2) + alibi * math.sqrt(WIDTH)
    scores /= math.sqrt(WIDTH)
    weights = functional.softmax(scores.float().masked_fill(mask.bool(), LOWEST), dim=-1)
    return weights @ values  # type: ignore[no-any-return]


def chosen(query: torch.Tensor, keys: Any, values: Any, mask: torch.Tensor, alibi: torch.Tensor) -> torch.Tensor:
    """As GPT-Neo."""
    scores = torch.matmul(query, keys.transpose(-1, -2)) * WIDTH**-0.5
    scores = torch.where(mask == 0, alibi + scores, torch.tensor(LOWEST))
    return torch.matmul(torch.nn.Softmax(dim=-1)(scores), values)


def whole(query: torch.Tensor, keys: Any, values: Any, mask: torch.Tensor, alibi: torch.Tensor) -> torch.Tensor:
    """As Falcon."""
    return functional.scaled_dot_product_attention(query, keys, values, attn_mask=alibi + mask)


def example() -> tuple[torch.Tensor, ...]:
    """Query, keys, values, a mask to be added, ALiBi; two rows with other slots."""
    torch.manual_seed(0)
    query = torch.randn(BATCH, HEADS, SEQUENCE, WIDTH)
    keys, values = torch.randn(2, BATCH, HEADS, SLOTS, WIDTH)
    last = torch.tensor([2, 5])[:, None] + torch.arange(SEQUENCE)
    mask = torch.where(torch.arange(SLOTS) <= last[:, None, :, None], 0.0, LOWEST)
    return query, keys, values, mask, torch.randn(HEADS, 1, 1) * torch.arange(SLOTS)


@pytest.mark.parametrize("form", [four_axes, three_axes, filled, chosen, whole])
def test_a_form_becomes_one_attention(form: Form) -> None:
    """The same numbers as on tensors, and one call of attend."""
    query, keys, values, mask, alibi = example()
    step = Step(length=torch.tensor([5, 8]))
    out = form(query, Keys(step, keys), Values(step, values), mask, alibi)
    assert [attended is keys for attended in step.attended] == [True]
    torch.testing.assert_close(out, form(query, keys, values, mask, alibi))
    torch.testing.assert_close(out, functional.scaled_dot_product_attention(query, keys, values, alibi + mask))


def test_a_causal_mask_alone_is_no_mask() -> None:
    """The mask of the running forward, scaled or not, is attend's own rule: unlike one of the same numbers, which
    would be an operand."""
    query, keys, values, mask, _ = example()
    step = Step(torch.tensor([5, 8]), causal_mask=mask)
    given: list[Any] = []
    hook = torch.ops.kvforge.attend.default

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is hook:
                given.append(args[4])
            return func(*args, **(kwargs or {}))

    with Record():
        for one in (mask, mask.clone()):
            scores = (query @ Keys(step, keys).transpose(2, 3) + one) / math.sqrt(WIDTH)
            out = scores.softmax(-1) @ Values(step, values)
            torch.testing.assert_close(out, functional.scaled_dot_product_attention(query, keys, values, mask))
    assert given[0] is None
    assert given[1] is not None


@pytest.mark.parametrize(
    ("form", "why"),
    [
        (lambda q, k, v: q @ k, "a form that is not known"),
        (lambda q, k, v: torch.einsum("bhsd,bhtd->bhst", q, k), "einsum on its keys"),
        (lambda q, k, v: (q @ k.transpose(2, 3)).tanh(), "tanh on its scores"),
        (lambda q, k, v: (q @ k.transpose(2, 3)) * q, "by a tensor"),
        (lambda q, k, v: k.transpose(1, 2), "transposes axes"),
        (lambda q, k, v: (q @ k.transpose(2, 3)).softmax(1), "not over the keys"),
        (lambda q, k, v: (q @ k.transpose(2, 3)).softmax(-1) * 2, "after the softmax"),
        (lambda q, k, v: (q @ k.transpose(2, 3)).softmax(-1) @ v, "a form that is not known"),  # without a mask
    ],
)
def test_another_form_is_refused(form: Callable[..., Any], why: str) -> None:
    """With the operation that has no place."""
    query, keys, values, *_ = example()
    step = Step(torch.tensor([5, 8]))
    with pytest.raises(UnknownForm, match=why):
        form(query, Keys(step, keys), Values(step, values))
