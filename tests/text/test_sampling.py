"""Sampling's distribution, and its greedy limit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pipeline.text.sampling import GREEDY, Row, Sampling, penalized, probabilities

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
    logits = np.array([1.0, 0.0, -1.0, 3.0], np.float32)
    row, draws = Row(sampling := Sampling(temperature=1.3, seed=7), [], 4), 20_000
    drawn = np.bincount([row.choose(logits) for _ in range(draws)], minlength=4) / draws
    p = probabilities(logits, sampling)
    assert (np.abs(drawn - p) <= 4 * np.sqrt(p * (1 - p) / draws)).all()


def test_temperature_zero_is_greedy() -> None:
    """The largest logit."""
    assert Row(GREEDY, [], 3).choose(np.array([0, 2, 1], np.float32)) == 1


TOP_P, MIN_P = st.sampled_from([0.3, 0.9, 1]), st.sampled_from([0, 0.05, 0.5, 1])


@given(LOGITS, st.floats(0.2, 5), st.integers(0, 25), TOP_P, MIN_P)
def test_the_distribution_of_transformers(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Its warpers in the order in which it applies them; a token whose share is at a limit may fall on either side."""
    distinct = torch.from_numpy(np.unique(logits).astype(np.float64))
    scores = distinct[None]
    ids = torch.zeros((1, 1), dtype=torch.int64)
    steps = [TemperatureLogitsWarper(temperature)]
    steps += [TopKLogitsWarper(top_k)] if top_k else []
    steps += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    steps += [MinPLogitsWarper(min_p)] if min_p else []
    ours = probabilities(scores[0].numpy(), Sampling(temperature, top_k, top_p, min_p=min_p))
    for step in steps:
        scores = step(ids, scores)
    theirs = scores.softmax(-1)[0].numpy()
    if (ours > 0).tolist() == (theirs > 0).tolist():
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    else:  # the sums of a nucleus differ in their last bits, and so does a share from a limit
        whole = (distinct.flip(0) / temperature).softmax(-1).numpy()
        kept = whole[: top_k or None] / whole[: top_k or None].sum()
        near = [abs(np.cumsum(kept) - top_p).min(), abs(kept - min_p * kept[0]).min(), kept.min()]
        assert min(near) < 1e-9


@given(LOGITS, st.floats(0.5, 3), st.lists(st.integers(0, 1), max_size=4))
def test_the_repetition_penalty_of_transformers(logits: np.ndarray, penalty: float, seen: list[int]) -> None:
    """Of tokens in the prompt, each once however often it is there."""
    mask = np.zeros(len(logits), np.bool_)
    mask[seen] = True
    want = torch.from_numpy(logits)[None].clone()
    if seen:
        want = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), want)
    np.testing.assert_allclose(penalized(logits, mask, penalty), want[0].numpy(), rtol=1e-6)


def test_a_token_is_penalized_once_it_was_chosen() -> None:
    """And one of the prompt from the beginning."""
    row = Row(Sampling(repetition_penalty=2), [3], 4)
    assert [row.choose(np.array([2.0, 3.0, 1.4, 3.5], np.float32)) for _ in range(3)] == [1, 0, 3]


def test_every_wrong_setting_is_named() -> None:
    """All of them, at once."""
    problems = Sampling(-1, -1, 0, -1, 0, 2).problems()
    assert [p.where for p in problems] == ["temperature", "top_k", "top_p", "seed", "repetition_penalty", "min_p"]
