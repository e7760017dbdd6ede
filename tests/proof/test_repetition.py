"""repetition: a text that repeats itself is seen, however it does so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.proof.repetition import repetition

LENGTH, GATE = 128, 0.5  # verify.greedy_tokens and verify.quality.added_repetition in conf/config.yaml
PIECES = st.lists(st.integers(0, 49151), min_size=1, max_size=32)


def looped(piece: list[int], start: list[int]) -> list[int]:
    """LENGTH tokens: a start, then the same piece over and over."""
    return (start + piece * LENGTH)[:LENGTH]


@pytest.mark.parametrize("text", [[], [1], [1, 2, 3], list(range(LENGTH))])
def test_a_text_without_repeats(text: list[int]) -> None:
    """Nothing is repeated where every token is new, and in less than 4 tokens."""
    assert repetition(text) == 0


@given(PIECES)
def test_any_loop_of_up_to_32_tokens_misses_the_gate(piece: list[int]) -> None:
    """The the the, a phrase, two sentences: what is left is at most one round of it."""
    assert repetition(looped(piece, [])) >= 1 - 32 / (LENGTH - 3) > GATE


@given(PIECES.filter(lambda piece: len(piece) <= 16), st.lists(st.integers(0, 49151), max_size=40))
def test_a_loop_may_start_late(piece: list[int], start: list[int]) -> None:
    """40 sound tokens before a loop of up to 16 do not hide it."""
    assert repetition(looped(piece, start)) > GATE


@given(PIECES.filter(lambda piece: len(piece) >= 12))
def test_a_loop_that_counts(piece: list[int]) -> None:
    """1. a sentence 2. the same sentence 3. ...: one new token in each round of 12 or more does not hide it."""
    text = [token for number in range(LENGTH) for token in (50_000 + number, *piece)][:LENGTH]
    assert repetition(text) > 0.35


@given(st.lists(st.integers(0, 9), max_size=LENGTH), st.permutations(range(10)))
def test_it_is_a_share_and_knows_no_names(text: list[int], names: list[int]) -> None:
    """Between 0 and 1, and the same whatever the tokens are called, and read backwards."""
    share = repetition(text)
    assert 0 <= share < 1
    assert repetition([names[token] for token in text]) == share == repetition(text[::-1])
