"""Text to tokens by transformers, with the tokenizer in an artifact's folder: what the proof and calibration read.

Generation does without transformers: see pipeline.text.tokenizer.
"""

from pathlib import Path

from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in `folder`; None when there is none (a model of random weights)."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def split(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The tokenizer's start token as a list, empty if it has none; and the tokens of the text after it."""
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    start = tokens[:1] if tokens[:1] == [tokenizer.bos_token_id] else []
    return start, tokens[len(start) :]


def cut(start: list[int], tokens: list[int], width: int) -> list[list[int]]:
    """Cut tokens into windows of `width` that each begin with `start`; the last one may be shorter."""
    step = width - len(start)
    return [[*start, *tokens[first : first + step]] for first in range(0, len(tokens), step)]
