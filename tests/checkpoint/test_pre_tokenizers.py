"""pre_tokenizers: how the names split text; benchmarks/tokens.py holds them all against llama.cpp."""

import pytest

from pipeline.checkpoint.pre_tokenizers import ADD_BOS, EXPRESSIONS, GROUPS, IGNORE_MERGES, pre_tokenizer

TEXT = "It's 12345 déjà-vu,\n\n  x = y;"


def pieces(name: str) -> list[str]:
    """The text's parts, spelled as a vocabulary spells them."""
    return [piece for piece, _ in pre_tokenizer(name).pre_tokenize_str(TEXT)]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("gpt-2", ["\u012012345"]),
        ("smollm", ["\u0120", "1", "2", "3", "4", "5"]),
        ("llama-bpe", ["\u0120", "123", "45"]),
        ("qwen2", ["\u0120", "1", "2", "3", "4", "5"]),
        ("falcon", ["\u0120", "123", "45"]),
    ],
)
def test_numbers_are_split_by_name(name: str, numbers: list[str]) -> None:
    """Whole, by digit, or by three digits; nothing of the text is lost."""
    found = pieces(name)
    at = next(i for i, piece in enumerate(found) if piece.startswith("\u0120"))
    assert found[at : at + len(numbers)] == numbers
    assert "".join(found) == "".join(pieces("bloom"))


def test_every_name_is_there_once_and_splits() -> None:
    """A name in two groups would take the later one; each expression compiles."""
    names = [name for group, _ in GROUPS for name in group.split()]
    assert len(names) == len(set(names)) == len(EXPRESSIONS)
    assert all(pieces(name) for name in names)
    assert names
    assert IGNORE_MERGES | ADD_BOS <= set(names)


def test_an_unknown_name() -> None:
    """The caller checks names first."""
    with pytest.raises(KeyError):
        pre_tokenizer("nobody-knows")
