"""Text to tokens and back, with the tokenizer, chat template and stop tokens that lie in an artifact's folder."""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.errors import Problem, UserError


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in `folder`; None when there is none (a model of random weights)."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def stop_tokens(folder: Path) -> frozenset[int]:
    """The tokens that end a text, from the generation config in `folder`."""
    path = folder / "generation_config.json"
    eos = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    return frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos])


def encode(tokenizer: Tokenizer, text: str, *, chat: bool, system: str | None) -> list[int]:
    """Tokens of a prompt; with `chat` as the user's turn of the model's chat template.

    Raises UserError when a chat is asked for and the model has no template.
    """
    if not chat:
        return list(tokenizer(text)["input_ids"])
    if tokenizer.chat_template is None:
        raise UserError(
            Problem("the model has no chat template", "chat", "give chat=false to continue the text itself")
        )
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def split(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The tokenizer's start token, as a list that is empty where it has none; and the tokens of the text after it."""
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    start = tokens[:1] if tokens[:1] == [tokenizer.bos_token_id] else []
    return start, tokens[len(start) :]


def cut(start: list[int], tokens: list[int], width: int) -> list[list[int]]:
    """Tokens in windows of `width` that each begin with `start`, the last one shorter."""
    step = width - len(start)
    return [[*start, *tokens[first : first + step]] for first in range(0, len(tokens), step)]


def decode_stream(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Pieces of text as tokens come in; a character of several tokens comes whole, special tokens are left out."""
    stream = DecodeStream(skip_special_tokens=True)
    for token in tokens:
        piece = stream.step(tokenizer.backend_tokenizer, token)
        if piece:
            yield piece
