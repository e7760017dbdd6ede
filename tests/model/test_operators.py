"""The two operators against the plainest way to say what they do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import operators

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
