"""After Hydra has refused a configuration: find every mistake in its files and overrides, not only the first.

The files and overrides are applied once more, key by key, and each key is checked against the schema.
"""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.keys import KEYS, SECTIONS, leaves
from pipeline.core.errors import Problem
from pipeline.core.schema import Config

EXPERIMENT = "experiment"  # the one group that is no section of the schema
FREE = ("model.config.", "profile.more.")  # below them keys are the user's own
# what Hydra and OmegaConf raise for a user's mistakes: ValueError for a group's value, OSError for a file's form
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError)


def diagnose(
    overrides: Sequence[str], conf: Path, main: str, loader: ConfigLoader, refusal: Exception
) -> tuple[DictConfig, set[str], list[Problem]]:
    """Return what could be composed, the keys without a valid value, and a problem for each mistake.

    refusal: Hydra's error; it is passed on when nothing else is found.
    """
    config: DictConfig = OmegaConf.structured(Config)
    problems: list[Problem] = []
    invalid_keys: set[str] = set()
    groups: list[str] = []
    values: list[Setting] = []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if not override.key_or_group:
                raise HydraException(text)
        except HydraException:
            key = text.partition("=")[0].lstrip("+~")
            fix = "write key=value, and quote a value with special characters: 'model.path=\"a (b)\"'"
            problems.append(Problem(f"{text!r} is not an override", key, fix))
            invalid_keys.add(key)
            continue
        key = override.key_or_group
        options = loader.get_group_options(key)
        problem = _misused(override, options)
        if problem is not None:
            problems.append(problem)
            invalid_keys.add(key)
        elif options:
            groups.append(text)
        elif not override.is_hydra_override() and not override.is_delete():
            values += [Setting(k, v, k, override.is_add()) for k, v in leaves(override.value(), key)]
    try:
        settings = [*_file_settings(groups, conf, main, loader), *values]
    except HYDRA_ERRORS as error:
        return config, SECTIONS, [*problems, _translated(error, conf, overrides)]
    for setting in settings:
        problem = _apply(config, setting)
        if problem is not None:
            problems.append(problem)
            invalid_keys.update({setting.key, *_near(setting.key)})
    if not problems:
        return config, SECTIONS, [_translated(refusal, conf, overrides)]
    if EXPERIMENT in invalid_keys:  # it could have set any key
        return config, SECTIONS, problems
    return config, invalid_keys & KEYS.keys(), problems


def _misused(override: Override, options: list[str]) -> Problem | None:
    """What is wrong with an override itself; `options`: those of its group, if it is one."""
    key, text = override.key_or_group, str(override.input_line)
    if override.is_sweep_override():
        fix = "add -m to build each value (a,b or range(1,4)); quote a text that holds a comma"
        return Problem(f"{text} stands for several values", key, fix)
    if override.is_delete():
        return Problem(f"{key} cannot be removed", key, f"set it instead: {key}=...") if key in KEYS else None
    if not options:
        return None
    if override.is_add():
        return Problem(f"{text}: there is always a choice of {key}", key, f"leave the + out: {text.lstrip('+')}")
    value = str(override.value())
    if value in options:
        return None
    near = difflib.get_close_matches(value, options, 1)
    fix = f"did you mean {near[0]}? " if near else ""
    return Problem(
        f"{key} has no option {override.get_value_element_as_str()}", key, f"{fix}choose one of {', '.join(options)}"
    )


class Setting(NamedTuple):
    """A value given to a key; `where`: the place, for the user."""

    key: str
    value: Any
    where: str
    adds_key: bool | None  # whether the override has a +; None for a file, which needs none


def _file_settings(groups: list[str], conf: Path, main: str, loader: ConfigLoader) -> Iterator[Setting]:
    """Every key that the chosen files set, in the order in which Hydra applies them."""
    for default in loader.compute_defaults_list(main, groups, RunMode.RUN).defaults:
        path = str(default.config_path)
        if path == "schema" or path.startswith("hydra"):
            continue
        file = conf / f"{path}.yaml"
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        for key, value in leaves(content, str(default.package or "")):
            if key.split(".")[0] not in ("defaults", "hydra"):
                yield Setting(key, value, f"{file}: {key}", None)


def _apply(config: DictConfig, setting: Setting) -> Problem | None:
    """Set one key; return why it cannot be set."""
    key, value, where, adds_key = setting
    free = key.startswith(FREE)
    if key not in KEYS and not free:
        near = _near(key)
        section = key.rpartition(".")[0]
        names = [k for k in KEYS if k.rpartition(".")[0] == section] or SECTIONS
        fix = f"did you mean {' or '.join(near)}?" if near else f"the keys there are {', '.join(names)}"
        return Problem(f"there is no key {key}", where, fix)
    there = OmegaConf.select(config, key) is not None
    if adds_key is True and there and not isinstance(value, dict | list):
        return Problem(f"{key} is there already", where, f"leave the + out: {key}={value}")
    if adds_key is False and free and not there:
        return Problem(f"{key} is not there yet", where, f"add it with a +: +{key}={value}")
    try:
        OmegaConf.update(config, key, value)
    except OmegaConfBaseException:
        return Problem(
            f"{key} cannot be {'null' if value is None else repr(value)}", where, f"give {_expected(KEYS[key].type)}"
        )
    return None


def _near(key: str) -> list[str]:
    """The keys that may have been meant by one that does not exist."""
    if key in KEYS:
        return []
    name = key.rpartition(".")[2]
    return difflib.get_close_matches(key, [*KEYS, EXPERIMENT], 1, 0.75) or [
        k for k in KEYS if k.rpartition(".")[2] == name
    ]


def _expected(kind: Any) -> str:
    """A type of the schema in words."""
    if isinstance(kind, types.UnionType):
        return f"{_expected(typing.get_args(kind)[0])}, or null"
    if is_dataclass(kind):
        return f"its keys one by one: {', '.join(typing.get_type_hints(kind))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(kind.__members__)}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return words.get(kind, "a list: [a, b]" if typing.get_origin(kind) is list else "a mapping: {a: 1}")


def _translated(error: Exception, conf: Path, overrides: Sequence[str]) -> Problem:
    """An error of Hydra or of the YAML reader as a problem of one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        fix = "write key: value, with spaces for indentation"
        return Problem(f"this is not YAML: {error.problem}", f"{mark.name}:{mark.line + 1}", fix)
    text = re.split(r"\n\s*Config search path|\nSee https", str(error.__cause__ or error))[0]
    file = re.search(r"In '([^']+)'", text)
    keys = [text.partition("=")[0].lstrip("+~") for text in overrides]
    where = str(conf / f"{file[1]}.yaml") if file else next((key for key in keys if key in text), str(conf))
    return Problem(" ".join(text.split()), where, "fix the file or override that is named")
