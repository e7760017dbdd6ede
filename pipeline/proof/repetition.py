"""Measure how much a generated text repeats itself."""

from collections.abc import Sequence

GRAM = 4  # tokens: the usual choice; natural text repeats many pairs and triples, and few fours


def repetition(tokens: Sequence[int]) -> float:
    """Share of a text's 4-grams that occurred in it before: 1 - distinct / all; 0.0 below 4 tokens.

    This is seq-rep-4 of Welleck et al., Neural Text Generation with Unlikelihood Training (2019), section 4.
    A text of n tokens that repeats p tokens has at most p distinct 4-grams, so the share is at least 1 - p / (n - 3):
    0.74 for 128 tokens and p = 32, 0.99 for one word. A loop that starts late, or changes a word in each round, counts
    by what stays equal.
    """
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
