"""All keys of the configuration, and what rules and diagnosis need to go through them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.core.errors import Problem
from pipeline.core.schema import Config
from pipeline.core.tables.engines import KINDS
from pipeline.core.tables.keys import Key, keys_of


def _keys() -> Iterator[tuple[str, Key]]:
    for name, key in keys_of(Config):
        kinds = [kind for kind in KINDS if name in {f"engine.{own}" for own in KINDS[kind].config_keys}]
        yield name, replace(key, used_by=tuple(kinds)) if kinds else key


KEYS = dict(_keys())  # by dotted name; sections too
SECTIONS = {name for name in KEYS if "." not in name}

Rule = tuple[Callable[..., Iterator[Problem]], *tuple[str, ...]]  # what finds problems in the values of these keys


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside nested mappings, with its dotted key; a list counts as one value."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def touches(key: str, others: set[str]) -> bool:
    """Whether a key is one of the others, inside one, or a section that holds one."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in others)
