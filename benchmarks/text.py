"""The text that all systems read: English prose of Python's own documentation, which needs no download."""

import json
import pydoc_data.topics
from collections.abc import Sequence
from pathlib import Path

WINDOW = 512  # tokens of a perplexity window
TOKENS = 8192  # tokens that perplexity is measured over
FILE = "tokens.json"


def write_tokens(model: Path, file: Path) -> None:
    """The first tokens of the text, by the tokenizer in `model`, without a beginning-of-text token."""
    from transformers import AutoTokenizer

    topics = pydoc_data.topics.topics
    text = "\n\n".join(topics[name] for name in sorted(topics))[:100_000]
    ids = AutoTokenizer.from_pretrained(model)(text, add_special_tokens=False)["input_ids"]
    file.write_text(json.dumps(ids[:TOKENS]), encoding="utf-8")


def prompts(tokens: Sequence[int], batch: int, length: int) -> list[list[int]]:
    """`batch` different prompts of `length` tokens: row r begins 97 tokens further on than row r - 1."""
    return [list(tokens[97 * row : 97 * row + length]) for row in range(batch)]


def windows(tokens: Sequence[int]) -> list[list[int]]:
    """The text in windows, each to be read from an empty cache."""
    return [list(tokens[start : start + WINDOW]) for start in range(0, TOKENS, WINDOW)]
