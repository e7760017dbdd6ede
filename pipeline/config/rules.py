"""What a configuration must obey beyond types: single values in range, and values that fit together.

RULES is a table: each rule with the keys that it reads. It is called with their values and yields problems. It is
skipped when one of them is missing or known to be wrong, so that no other key gets the blame.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pipeline.config import rules_engine, rules_profiles, sources
from pipeline.config.keys import KEYS, Rule, leaves, touches
from pipeline.config.points import NAME
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import OPSETS, Model, Source
from pipeline.text import texts

COMMIT = re.compile(r"[0-9a-f]{40}")
NONE: Mapping[str, Sequence[str]] = MappingProxyType({})


def check(config: DictConfig, invalid_keys: set[str], references: Mapping[str, Sequence[str]] = NONE) -> list[Problem]:
    """What is wrong with a resolved configuration.

    invalid_keys: keys whose problems are already known. references: key -> the keys that its value was taken from.
    """
    invalid = set(invalid_keys)
    values = OmegaConf.to_container(config)
    missing = [key for key, value in leaves(values) if value == "???" and not touches(key, invalid)]
    problems = [Problem(f"{key} has no value", key, "give it one, or choose an option that does") for key in missing]
    invalid.update(missing)

    def is_valid(key: str) -> bool:
        return not any(touches(one, invalid) for one in (key, *references.get(key, ())))

    for name, key in KEYS.items():
        if key.interval is not None and is_valid(name):
            number = OmegaConf.select(config, name)
            if number is not None and number not in key.interval:
                problems.append(Problem(f"{name} is {number}", name, f"give a number, {key.interval}"))
                invalid.add(name)
    for rule, *keys in RULES:
        if all(map(is_valid, keys)):
            problems += rule(*(OmegaConf.select(config, key) for key in keys))
    return problems


def _name(point: str | None) -> Iterator[Problem]:
    if point is not None and not NAME.fullmatch(point):
        yield Problem(f"a point cannot be called {point!r}", "point", "use letters, digits, _ and -")


def _choice(name: str, choice: str, chosen: Enum, value: Any) -> Iterator[Problem]:
    """A key whose effect depends on model.source or engine.kind: given where needed, and only where used."""
    key, given = KEYS[name], value != KEYS[name].default
    accepted = [one.rpartition(".")[2] for one in KEYS if chosen in KEYS[one].effective_with]
    accepts = f"{chosen.value} accepts {', '.join(accepted)}"
    if chosen in key.needed_by and not given:
        yield Problem(f"{choice}={chosen.value} needs {name}", name, f"give it; {accepts}")
    elif chosen not in key.effective_with and given:
        fix = f"remove it, or choose another option of {choice.partition('.')[0]}/; {accepts}"
        yield Problem(f"{name} has no effect with {choice}={chosen.value}", name, fix)


def _choice_rules(choice: str) -> Iterator[Rule]:
    section = choice.partition(".")[0]
    for name, key in KEYS.items():
        if name.startswith(f"{section}.") and key.effective_with:
            yield partial(_choice, name, choice), choice, name


def _files(model: Model) -> Iterator[Problem]:
    """The files that are to be loaded, and a type that no files are needed to refuse."""
    if model.path is not None or model.source is Source.random:
        try:
            sources.find(model)
        except UserError as error:
            yield from error.problems


def _pinned(source: Source, trusted: bool, revision: str) -> Iterator[Problem]:
    """Remote code that is run must be the code that was read."""
    if source is Source.hub and trusted and not COMMIT.fullmatch(revision):
        what = f"model.trust_remote_code runs code of a revision that can change, {revision}"
        fix = "read the code, and give the commit that you have read, as its 40 hexadecimal digits"
        yield Problem(what, "model.revision", fix)


def _opset(opset: int) -> Iterator[Problem]:
    if opset not in OPSETS:
        fix = f"choose {' or '.join(map(str, OPSETS))}; 24 is the first that can write a cache in place"
        yield Problem(f"export.opset={opset} is not supported", "export.opset", fix)


def _prompts(prompts: Sequence[str]) -> Iterator[Problem]:
    if not prompts or not all(text.strip() for text in prompts):
        yield Problem("a prompt is missing or empty", "verify.prompts", "give at least one text: [The capital of]")


def _quality_tokens(tokens: int) -> Iterator[Problem]:
    if tokens == 1:
        fix = "2 or more, or 0 to measure no quality"
        yield Problem("one token is not a text: none is predicted", "verify.quality.tokens", fix)


def _window(tokens: int, window: int, size: int) -> Iterator[Problem]:
    if tokens:
        yield from _fits("verify.quality.window", window, size)


def _bench_tokens(prompt: int, new_tokens: int, size: int) -> Iterator[Problem]:
    total = prompt + new_tokens
    if total > size:
        what = f"bench.prompt + bench.new_tokens = {total} tokens do not fit into cache.size={size}"
        yield Problem(what, "bench.new_tokens", "measure fewer tokens, or take a larger cache")


def _fits(key: str, tokens: int, size: int) -> Iterator[Problem]:
    if tokens > size:
        what = f"{key}={tokens} tokens do not fit into cache.size={size}"
        yield Problem(what, key, f"{key}={size} at most, or a larger cache")


def _inside_cache(key: str) -> Rule:
    return lambda tokens, size: _fits(key, tokens, size), key, "cache.size"


def _text(role: texts.TextRole) -> Rule:
    def readable(text: str | None) -> Iterator[Problem]:
        try:
            texts.find(text, role)
        except UserError as error:
            yield from error.problems

    return readable, role.key


RULES: tuple[Rule, ...] = (
    (_name, "point"),
    *_choice_rules("model.source"),
    *_choice_rules("engine.kind"),
    (_files, "model"),
    (_pinned, "model.source", "model.trust_remote_code", "model.revision"),
    _inside_cache("axes.sequence"),
    *rules_profiles.RULES,
    *rules_engine.RULES,
    (_opset, "export.opset"),
    (_prompts, "verify.prompts"),
    _inside_cache("verify.greedy_tokens"),
    _text(texts.QUALITY),
    _text(texts.CALIBRATION),
    (_quality_tokens, "verify.quality.tokens"),
    (_window, "verify.quality.tokens", "verify.quality.window", "cache.size"),
    (_bench_tokens, "bench.prompt", "bench.new_tokens", "cache.size"),
)
