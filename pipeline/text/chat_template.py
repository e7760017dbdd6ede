"""Render a model's chat template, as transformers does but without importing it.

A template is a program that came with the model. It runs in Jinja's sandbox, and gets plain values only.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

Message = Mapping[str, Any]  # role, content and whatever else the template reads; plain JSON
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of a message's reasoning; templates read the first


def render(template: str, messages: Sequence[Message], special_tokens: Mapping[str, str]) -> str:
    """The text of a chat, up to the beginning of the answer. special_tokens: bos_token and the like, by name.

    Raises whatever the template raises.
    """
    chat = [_with_reasoning(message) for message in messages]
    values = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": True}
    return _compiled(template).render({**values, **special_tokens})


def _with_reasoning(message: Message) -> dict[str, Any]:
    """A message without keys that are null, whose reasoning has the names that templates read."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[name] for name in REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


@cache
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlocks, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),  # the user's own time
        "dict": _Dict(),
        "namespace": _SafeNamespace,
    }
    return environment.from_string(template)


class _GenerationBlocks(Extension):
    """{% generation %} marks the answers in a chat, for training; the text is the same without."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return str(caller())


class _Dict:
    """The global `dict` without the class itself, from whose attributes a template might reach others."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, keys: Iterator[Any], value: Any = None) -> dict[Any, Any]:
        """See dict."""
        return dict.fromkeys(keys, value)


class _SafeNamespace(Namespace):
    """The global `namespace`; refuses names with which a template might reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:  # so that `namespace(self=...)` works, as in Jinja
        self, attributes = args[0], dict(*args[1:], **values)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no attribute that begins with an underscore, such as {name!r}")


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes what is special in HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
