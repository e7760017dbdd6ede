"""End a text at a string, wherever the borders of tokens fall."""

from collections.abc import Iterable, Iterator, Sequence


def text_before(pieces: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield the text of `pieces` up to the first of the strings in `stop`, and take no piece after it.

    What may be the beginning of such a string is held back until it is known not to be one.
    """
    held = ""
    for piece in pieces:
        held += piece
        ends = [found for found in map(held.find, stop) if found >= 0]
        if ends:
            if min(ends):
                yield held[: min(ends)]
            return
        safe = len(held) - max((_begun(held, string) for string in stop), default=0)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


def _begun(text: str, string: str) -> int:
    """How many characters at the end of a text are the beginning of a string."""
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)
