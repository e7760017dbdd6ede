"""Guess the next tokens: what followed the last time that the text had the same few tokens (prompt lookup decoding).

The engine reads a guess in one step with the token before it, and its own choices decide how much of it stands. Texts
that repeat their prompt, such as edits of code, take fewer steps.
"""

from collections.abc import Sequence

MATCH = 3  # tokens that must be the same: with fewer, most guesses are wrong
SHORTEST, LONGEST = 4, 16  # tokens of a guess


class Lookup:
    """The tokens of a text, and guesses at those that follow.

    A wrong guess costs time. So guesses become shorter when they are wrong and longer when they are right, and after
    each that is wholly wrong, twice as many steps pass without one.
    """

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # the last tokens -> the index of the one that followed
        self._length = SHORTEST
        self._pause = self._waiting = 0
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token to the text."""
        if len(self._tokens) >= MATCH:
            self._after[tuple(self._tokens[-MATCH:])] = len(self._tokens)
        self._tokens.append(token)

    def guess(self, limit: int) -> list[int]:
        """At most `limit` tokens that may follow; often none."""
        if self._waiting:
            self._waiting -= 1
            return []
        start = self._after.get(tuple(self._tokens[-MATCH:])) if len(self._tokens) >= MATCH else None
        return [] if start is None else self._tokens[start : start + min(self._length, limit)]

    def learn(self, guessed: int, right: int) -> None:
        """Take note of how many tokens of a guess were right."""
        if right == guessed:
            self._length = min(2 * self._length, LONGEST)
        else:
            self._length = max(right, SHORTEST)
        if right:
            self._pause = 0
        else:
            self._pause = max(1, 2 * self._pause)
            self._waiting = self._pause
