"""stop_strings: a text ends before the string, wherever the pieces break it."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.stop_strings import text_before


@given(st.lists(st.text("ab", max_size=4), max_size=12), st.lists(st.text("ab", min_size=1, max_size=5), max_size=3))
def test_the_text_before_the_first(pieces: list[str], stop: list[str]) -> None:
    """Of several strings, overlapping ones included; all of the text where there is none."""
    whole = "".join(pieces)
    want = min((whole[: whole.find(string)] for string in stop if string in whole), key=len, default=whole)
    found = list(text_before(pieces, stop))
    # a longer string may begin before a shorter one that is complete earlier: then the shorter one ends the text
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(string) for string in stop)]
    assert "".join(found) == want or (ends and len(want) < len("".join(found)) < ends[0])
    assert all(found)


def test_only_what_may_begin_the_string_is_held_back() -> None:
    """Text comes as soon as it cannot be the string, and nothing is read after it."""
    taken = []

    def pieces() -> Iterator[str]:
        for piece in ("One <", "b> two", "</", "end", "> three"):
            taken.append(piece)
            yield piece

    assert list(text_before(pieces(), ["</end"])) == ["One ", "<b> two"]
    assert taken == ["One <", "b> two", "</", "end"]
