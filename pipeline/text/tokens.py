"""Text to tokens, with the tokenizer and chat template in an artifact's folder."""

from pathlib import Path

from transformers import AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.core.errors import Problem, UserError, first_line


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
