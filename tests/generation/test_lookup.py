"""lookup: guesses repeat what followed the same tokens, and become rare where they are wrong."""

from pipeline.generation.lookup import LONGEST, MATCH, SHORTEST, Lookup

TEXT = list(range(30))


def test_what_followed_the_same_tokens() -> None:
    """The last time that they were there, up to a limit; none where they are new."""
    lookup = Lookup([*TEXT, 99, *TEXT[:MATCH]])
    assert lookup.guess(100) == TEXT[MATCH : MATCH + SHORTEST]
    assert lookup.guess(2) == TEXT[MATCH : MATCH + 2]
    assert lookup.guess(0) == []
    lookup.add(77)
    assert lookup.guess(100) == []
    assert Lookup([]).guess(5) == Lookup([1]).guess(5) == Lookup([1] * MATCH).guess(5) == []
    assert Lookup([1] * (MATCH + 1)).guess(5) == [1]


def test_right_guesses_become_longer() -> None:
    """Up to a limit; a guess that is right in part makes them short again."""
    lookup = Lookup([*TEXT, *TEXT[:MATCH]])
    for length in (SHORTEST, 2 * SHORTEST, LONGEST, LONGEST):
        assert len(lookup.guess(100)) == length
        lookup.learn(length, length)
    lookup.learn(LONGEST, 1)
    assert len(lookup.guess(100)) == SHORTEST


def test_wrong_guesses_become_rare() -> None:
    """Of 100 steps in which every guess is wrong, few have one; the first right one ends that."""
    lookup = Lookup([*TEXT, *TEXT[:MATCH]])
    guesses = 0
    for _ in range(100):
        if guess := lookup.guess(100):
            guesses += 1
            lookup.learn(len(guess), 0)
    assert guesses == 7
    while not lookup.guess(100):
        pass
    lookup.learn(SHORTEST, SHORTEST)
    assert lookup.guess(100)
