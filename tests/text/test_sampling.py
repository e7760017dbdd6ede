"""Sampling's distribution, and its greedy limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.text.sampling import GREEDY, Sampling, choose, probabilities

LOGITS = arrays(np.float32, st.integers(2, 20), elements=st.floats(-50, 50, width=32))


@given(LOGITS, st.floats(0.1, 5), st.integers(0, 25), st.floats(0.01, 1))
def test_probabilities_keep_the_likeliest(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> None:
    """They sum to 1, keep at most top_k tokens, never drop a token likelier than one kept, and reach top_p."""
    p = probabilities(logits, Sampling(temperature, top_k, top_p))
    assert p.sum() == pytest.approx(1)
    kept, dropped = logits[p > 0], logits[p == 0]
    assert len(kept) <= (top_k or len(logits))
    assert not len(dropped) or kept.min() >= dropped.max() or np.exp((dropped.max() - logits.max()) / temperature) == 0


def test_top_p_counts_up_to_the_one_that_reaches_it() -> None:
    """0.5, 0.3, 0.2 with top_p 0.6: the first two stay, scaled to 1."""
    p = probabilities(np.log(np.array([0.2, 0.5, 0.3], np.float32)), Sampling(1.0, top_p=0.6))
    np.testing.assert_allclose(p, [0, 0.625, 0.375], atol=1e-6)


def test_drawn_shares_follow_the_probabilities() -> None:
    """Over 20,000 draws each token's share is within 4 standard deviations of its probability."""
    logits = np.array([[1.0, 0.0, -1.0, 3.0]], np.float32).repeat(20_000, 0)
    sampling = Sampling(temperature=1.3, seed=7)
    drawn = np.bincount(choose(logits, sampling, np.random.default_rng(sampling.seed)), minlength=4) / len(logits)
    p = probabilities(logits[0], sampling)
    assert (np.abs(drawn - p) <= 4 * np.sqrt(p * (1 - p) / len(logits))).all()


def test_temperature_zero_is_greedy() -> None:
    """The largest logit of each row."""
    logits = np.array([[0, 2, 1], [5, 4, 3]], np.float32)
    assert choose(logits, GREEDY, np.random.default_rng(0)).tolist() == [1, 0]


def test_every_wrong_setting_is_named() -> None:
    """All of them, at once."""
    problems = Sampling(temperature=-1, top_k=-1, top_p=0).problems()
    assert [p.where for p in problems] == ["temperature", "top_k", "top_p"]
