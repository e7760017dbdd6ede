"""Tokens to text, piece by piece as they are generated."""

from collections.abc import Callable, Iterator

Decode = Callable[[list[int]], str]  # tokens to their text, without special tokens

INCOMPLETE = "\ufffd"  # a decoder writes it for bytes that are not a character, or not yet
# tokens held back because they may begin a character: each new token decodes all of them again
PENDING = 16
UNSETTLED = 3  # the last of these, whose bytes may still become a character: it has at most 4 bytes


def decode_stream(decode: Decode, tokens: Iterator[int]) -> Iterator[str]:
    """Yield pieces of text as tokens come in. Joined, they equal the text of all tokens decoded at once.

    A character of several tokens is yielded whole. Special tokens are skipped, and so are up to PENDING tokens at the
    end that are not whole characters. Works with every tokenizer that decodes: the library's own stream raises on some
    bytes.
    """
    # Only a few tokens are decoded again: from `start`, the beginning of the last piece yielded, which ends at `shown`.
    # A decoder may treat the first token differently, so a piece is always decoded together with the one before it.
    ids: list[int] = []
    start = shown = 0
    for token in tokens:
        ids.append(token)
        before, text = decode(ids[start:shown]), decode(ids[start:])
        if len(text) > len(before) and not text.endswith(INCOMPLETE):
            yield text[len(before) :]
            start, shown = shown, len(ids)
        elif len(ids) - shown > PENDING:
            end = _settled(decode, ids, start, text)
            piece = decode(ids[start:end])[len(before) :]
            if piece:
                yield piece
                start, shown = shown, end
            else:  # tokens without text, such as special ones: the next piece is still decoded after the last one
                del ids[shown:end]


def _settled(decode: Decode, ids: list[int], start: int, text: str) -> int:
    """The end of the tokens from `start` on whose text no later token changes; `text`: the text of all of them."""
    last = len(ids) - UNSETTLED
    for end in range(last, last - UNSETTLED - 1, -1):  # not within a character
        if text.startswith(decode(ids[start:end])):
            return end
    return last
