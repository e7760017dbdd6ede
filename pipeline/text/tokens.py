"""Text to tokens and back, with the tokenizer and chat template in an artifact's folder."""

from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.core.errors import Problem, UserError, first_line

INCOMPLETE = "\ufffd"  # a decoder writes it for bytes that are not a character, or not yet
# tokens held back because they may begin a character: each new token decodes all of them again
PENDING = 16
UNSETTLED = 3  # the last of these, whose bytes may still become a character: it has at most 4 bytes


def load_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer in `folder`; None when there is none (a model of random weights)."""
    if not (folder / "tokenizer_config.json").exists():
        return None
    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, *, chat: bool, system: str | None) -> list[int]:
    """Tokens of a prompt; with `chat`, of the user's turn in the model's chat template.

    Raises UserError when `chat` is set and the model has no template, or none named default, or the template fails.
    """
    if not chat:
        return list(tokenizer(text, verbose=False)["input_ids"])
    template = tokenizer.chat_template
    plain = "use --no-chat (chat=False in Python) to continue the text itself"
    if not template:
        raise UserError(Problem("the model has no chat template", "chat", plain))
    if isinstance(template, dict):
        if "default" not in template:
            what = f"the model has the chat templates {', '.join(template)}, but none named default"
            raise UserError(Problem(what, "chat", plain))
        template = template["default"]
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    options = {"chat_template": template, "add_generation_prompt": True, "return_dict": True}
    try:
        return list(tokenizer.apply_chat_template(messages, **options)["input_ids"])
    except Exception as error:  # a template is a program that came with the model: it may raise anything
        fix = "remove the system message, or " + plain if system is not None else plain
        where = "chat" if system is None else "system"
        raise UserError(Problem(f"the model's chat template fails: {first_line(error)}", where, fix)) from error


def split(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The tokenizer's start token as a list, empty if it has none; and the tokens of the text after it."""
    tokens = list(tokenizer(text, verbose=False)["input_ids"])
    start = tokens[:1] if tokens[:1] == [tokenizer.bos_token_id] else []
    return start, tokens[len(start) :]


def cut(start: list[int], tokens: list[int], width: int) -> list[list[int]]:
    """Cut tokens into windows of `width` that each begin with `start`; the last one may be shorter."""
    step = width - len(start)
    return [[*start, *tokens[first : first + step]] for first in range(0, len(tokens), step)]


def decode_stream(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
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
        before, text = _decoded(tokenizer, ids[start:shown]), _decoded(tokenizer, ids[start:])
        if len(text) > len(before) and not text.endswith(INCOMPLETE):
            yield text[len(before) :]
            start, shown = shown, len(ids)
        elif len(ids) - shown > PENDING:
            end = _settled(tokenizer, ids, start, text)
            piece = _decoded(tokenizer, ids[start:end])[len(before) :]
            if piece:
                yield piece
                start, shown = shown, end
            else:  # tokens without text, such as special ones: the next piece is still decoded after the last one
                del ids[shown:end]


def _settled(tokenizer: Tokenizer, ids: list[int], start: int, text: str) -> int:
    """The end of the tokens from `start` on whose text no later token changes; `text`: the text of all of them."""
    last = len(ids) - UNSETTLED
    for end in range(last, last - UNSETTLED - 1, -1):  # not within a character
        if text.startswith(_decoded(tokenizer, ids[start:end])):
            return end
    return last


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
