"""A tokenizer for generation: prompts to tokens and tokens to text.

It reads tokenizer.json by the tokenizers library, without transformers, whose import takes longer than loading a small
model. transformers is used where its class would do more than that file says.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from pipeline.core.errors import Problem, UserError, first_line
from pipeline.core.files import read_json
from pipeline.text.chat_template import Message, render

CONFIG, TOKENIZER_JSON = "tokenizer_config.json", "tokenizer.json"
TEMPLATE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
PLAIN_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")  # of transformers: these change nothing in the file
CHANGES = (
    "add_bos_token",
    "add_eos_token",
    "auto_map",
    "post_processor",
    "split_special_tokens",
)  # but with these keys
SPECIAL = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
PLAIN_TEXT = "use --no-chat (chat=False in Python) to continue the text itself"


class TextTokenizer(ABC):
    """templates: the model's chat templates by name; empty if it has none."""

    templates: Mapping[str, str]

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Tokens of a text, with those that the model wants at its beginning and end."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""

    @abstractmethod
    def _encode_chat(self, messages: Sequence[Message], template: str) -> list[int]:
        """Tokens of a chat. Raises whatever the template raises."""

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a chat in the model's template, up to the beginning of the answer.

        Raises UserError when the model has no template, or none named default, or the template fails.
        """
        if not self.templates:
            raise UserError(Problem("the model has no chat template", "chat", PLAIN_TEXT))
        if "default" not in self.templates:
            what = f"the model has the chat templates {', '.join(self.templates)}, but none named default"
            raise UserError(Problem(what, "chat", PLAIN_TEXT))
        try:
            return self._encode_chat(messages, self.templates["default"])
        except Exception as error:  # a template is a program that came with the model: it may raise anything
            system = any(message.get("role") == "system" for message in messages)
            fix = "remove the system message, or " + PLAIN_TEXT if system else PLAIN_TEXT
            what = f"the model's chat template fails: {first_line(error)}"
            raise UserError(Problem(what, "system" if system else "chat", fix)) from error

    def encode_prompt(self, text: str, *, chat: bool, system: str | None) -> list[int]:
        """Tokens of a text; with `chat`, of a chat in which the user says it. Raises UserError as `encode_chat`."""
        if not chat:
            return self.encode(text)
        messages = [{"role": "system", "content": system}] if system is not None else []
        return self.encode_chat([*messages, {"role": "user", "content": text}])


class FastTokenizer(TextTokenizer):
    """A tokenizer.json, with the special tokens that its chat templates know by name."""

    def __init__(self, backend: Backend, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.templates = templates
        self.special_tokens = special_tokens
        self._backend = backend

    def encode(self, text: str) -> list[int]:
        return self._backend.encode(text).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._backend.decode(tokens)

    def _encode_chat(self, messages: Sequence[Message], template: str) -> list[int]:
        text = render(template, messages, self.special_tokens)
        return self._backend.encode(text, add_special_tokens=False).ids


class TransformersTokenizer(TextTokenizer):
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        found = tokenizer.chat_template
        self.templates = found if isinstance(found, dict) else {"default": found} if found else {}
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, verbose=False)["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _encode_chat(self, messages: Sequence[Message], template: str) -> list[int]:
        options = {"chat_template": template, "add_generation_prompt": True, "return_dict": True}
        return list(self._tokenizer.apply_chat_template(list(messages), **options)["input_ids"])


def open_tokenizer(folder: Path) -> TextTokenizer | None:
    """The tokenizer in `folder`; None when there is none (a model of random weights).

    Raises UserError when a file is damaged.
    """
    path = folder / CONFIG
    if not path.exists():
        return None
    config = read_json(path)
    tokenizer = _fast(folder, config)
    if tokenizer is not None:
        return tokenizer
    from pipeline.text.tokens import load_tokenizer  # imports transformers

    return TransformersTokenizer(load_tokenizer(folder))


def _fast(folder: Path, config: Mapping[str, Any]) -> FastTokenizer | None:
    """The tokenizer of a folder by its tokenizer.json alone; None where transformers would make another of it."""
    path = folder / TOKENIZER_JSON
    if not path.exists() or config.get("tokenizer_class") not in PLAIN_CLASSES or any(config.get(k) for k in CHANGES):
        return None
    try:
        backend = Backend.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        what = f"{path} cannot be read: {first_line(error)}"
        raise UserError(Problem(what, str(path), f"dvc checkout {folder}, or build the point again")) from error
    special = {name: _content(config[name]) for name in SPECIAL if config.get(name) is not None}
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    more = config.get("extra_special_tokens") or []
    if not set(special.values()) <= known or not {_content(token) for token in more} <= known:
        return None  # transformers adds those to the vocabulary
    return FastTokenizer(backend, _templates(folder, config.get("chat_template")), special)


def _content(token: Any) -> str:
    """The text of a special token, which is stated as such or with its properties."""
    return str(token["content"] if isinstance(token, dict) else token)


def _templates(folder: Path, stated: Any) -> dict[str, str]:
    """The chat templates by name: those that have files, or else those that are `stated` in the configuration."""
    paths = {path.stem: path for path in sorted((folder / MORE_TEMPLATES).glob("*.jinja"))}
    if (folder / TEMPLATE).exists():
        paths["default"] = folder / TEMPLATE
    if paths:
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    if isinstance(stated, list):
        return {entry["name"]: entry["template"] for entry in stated}
    return {"default": stated} if stated else {}
