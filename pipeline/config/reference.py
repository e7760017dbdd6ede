"""The reference of all configuration keys, made from the schema: docs/configuration.md, and what --help lists."""

import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.config.keys import KEYS, SECTIONS
from pipeline.core.files import write_text
from pipeline.core.tables.keys import Key

FILE = Path("docs/configuration.md")
HEAD = """\
# Configuration

<!-- Made by `make docs/configuration.md` from pipeline/core/schema.py: change it there. -->

A point is made of options and keys: `python -m pipeline precision=int8 cache.size=2048` takes the option `int8` of the
group `conf/precision/` and overrides one key. An option is a YAML file; one of your own, put beside the others, can be
chosen in the same way.

Names are relative to their section: `size` below `cache` is the key `cache.size`. The defaults are those of
`conf/config.yaml` with the options that it takes."""
COLUMNS = "| Key | Meaning | Value | Default |\n| --- | --- | --- | --- |"
LONGEST = 24  # characters of a default that is shown: a longer one makes the table too wide
TYPES = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    list[str]: "list of texts",
    list[float]: "list of numbers",
}


def write() -> None:
    """Write docs/configuration.md."""
    write_text(FILE, markdown())


def markdown() -> str:
    """All keys: a table for each section."""
    default = config.compose([])
    parts = [HEAD]
    for section in KEYS:
        if section in SECTIONS:
            meaning = KEYS[section].type.__doc__ if is_dataclass(KEYS[section].type) else "A key of its own."
            parts += ["", f"## {section}", "", meaning, "", COLUMNS]
        parts += _row(section, KEYS[section], OmegaConf.select(default, section))
    return "\n".join(parts) + "\n"


def listing(width: int = 110) -> Iterator[str]:
    """All keys for a terminal: the first sentence on each."""
    margin = " " * 4
    for name, key in KEYS.items():
        if not is_dataclass(key.type):
            text = f"{name}  {key.meaning.split('. ')[0].rstrip('.')}"
            yield textwrap.fill(
                text, width, initial_indent=margin, subsequent_indent=margin * 2, break_on_hyphens=False
            )
        elif name in SECTIONS:
            yield f"\n  {name}: {key.type.__doc__}"


def _row(name: str, key: Key, value: Any) -> Iterator[str]:
    short = name.partition(".")[2] or name
    if not is_dataclass(key.type):
        only = " and ".join(f"`{one.value}`" for one in key.effective_with)
        default = _text(value)
        shown = f"`{default}`" if len(default) <= LONGEST else "see `conf/`"
        yield f"| `{short}` | {key.meaning}{only and f' Only with {only}.'} | {_value(key)} | {shown} |"
    elif name not in SECTIONS:
        yield f"| **{short}** | {key.meaning} | | |"


def _value(key: Key) -> str:
    """The type of a key, and what it accepts."""
    if isinstance(key.type, type) and issubclass(key.type, Enum):
        return ", ".join(f"`{name}`" for name in key.type.__members__)
    if key.allowed:
        return ", ".join(f"`{value}`" for value in key.allowed)
    optional = isinstance(key.type, types.UnionType)
    kind = typing.get_args(key.type)[0] if optional else key.type
    parts = [TYPES.get(kind, "mapping"), str(key.interval or ""), "or null" if optional else ""]
    return ", ".join(filter(None, parts))


def _text(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
