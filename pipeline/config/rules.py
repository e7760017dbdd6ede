"""What a configuration must obey beyond types: single values in range, and values that fit together.

A rule reads values and yields problems. A value that is missing, or already known to be wrong, is marked as
missing first: a rule that reads it then says nothing, instead of blaming other keys.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from pipeline.config import rules_engine, rules_profiles, sources
from pipeline.config.points import NAME
from pipeline.config.rules_profiles import SIDES
from pipeline.core.errors import Problem, UserError
from pipeline.core.profiles import ENDS
from pipeline.core.schema import Config, Model, Source
from pipeline.text import texts

COMMIT = re.compile(r"[0-9a-f]{40}")
OPSETS = (24, 25)  # 24 is the first with TensorScatter; what speaks against 25 stands in conf/config.yaml


@dataclass(frozen=True)
class Interval:
    """Numbers from least to most; `least` itself only if `closed`. Infinity and NaN are in none."""

    least: float
    most: float = math.inf
    closed: bool = True

    def __contains__(self, value: float) -> bool:
        above = value >= self.least if self.closed else value > self.least
        return above and value <= self.most and math.isfinite(value)

    def __str__(self) -> str:
        if self.most < math.inf:
            return f"{self.least:g} to {self.most:g}"
        return f"{self.least:g} or more" if self.closed else f"above {self.least:g}"


COUNT, NOT_NEGATIVE, POSITIVE = Interval(1), Interval(0), Interval(0, closed=False)
SEED = Interval(0, 2**32 - 1)  # what both torch and numpy take
RANGES = {
    **dict.fromkeys(("axes.batch", "axes.sequence", "cache.size"), COUNT),
    **{f"profile.{step}.{axis}.{end}": COUNT for step, axis in SIDES for end in ENDS},
    **dict.fromkeys(("verify.greedy_tokens", "bench.batch", "bench.prompt", "bench.new_tokens"), COUNT),
    **dict.fromkeys(("bench.repeats", "quantize.calibration.tokens"), COUNT),
    "engine.threads": Interval(0, 1024),  # ONNX Runtime starts them all, and a million takes minutes to fail
    **dict.fromkeys(("simplify.memory_gb", "simplify.timeout_s", "engine.workspace_gb"), POSITIVE),
    **dict.fromkeys((f"verify.gates.{gate}" for gate in ("logits_error", "kl", "cache_error")), NOT_NEGATIVE),
    **dict.fromkeys((f"verify.quantized_gates.{gate}" for gate in ("logits_error", "kl", "cache_error")), NOT_NEGATIVE),
    **dict.fromkeys((f"verify.{group}.greedy_agreement" for group in ("gates", "quantized_gates")), Interval(0, 1)),
    **dict.fromkeys(
        (f"verify.quality.{key}" for key in ("tokens", "perplexity", "perplexity_carried_over", "kl")), NOT_NEGATIVE
    ),
    **dict.fromkeys(("verify.quality.top1", "verify.quality.added_repetition"), Interval(0, 1)),
    "verify.headroom": NOT_NEGATIVE,
    "verify.quality.window": Interval(2),
    **dict.fromkeys(("model.seed", "verify.seed"), SEED),
}

# the keys that each source needs, and those that it may have besides
MODEL_KEYS = {
    Source.hub: (("id",), ("revision", "trust_remote_code")),
    Source.local: (("path",), ("package", "trust_remote_code")),
    Source.gguf: (("path",), ("package",)),
    Source.random: (("architecture",), ("config", "seed")),
}


def check(config: DictConfig, mistaken: set[str]) -> list[Problem]:
    """What is wrong with a resolved configuration; `mistaken`: keys whose problems are already known."""
    problems = [
        Problem(f"{key} has no value", key, "give it one, or choose an option that does")
        for key in sorted(OmegaConf.missing_keys(config))
        if not any(key == known or key.startswith(f"{known}.") for known in mistaken)
    ]
    for key in mistaken:
        OmegaConf.update(config, key, "???")
    for key, interval in RANGES.items():
        try:
            value = functools.reduce(getattr, key.split("."), cast(Any, config))
        except MissingMandatoryValue:
            continue
        if value is not None and value not in interval:
            problems.append(Problem(f"{key} is {value}", key, f"give a number, {interval}"))
            OmegaConf.update(config, key, "???")
    for rule in RULES:
        with contextlib.suppress(MissingMandatoryValue):
            problems += rule(cast(Config, config))  # keeps those before the missing value
    return problems


def _name(config: Config) -> Iterator[Problem]:
    if config.point is not None and not NAME.fullmatch(config.point):
        yield Problem(f"a point cannot be called {config.point!r}", "point", "use letters, digits, _ and -")


def _model(config: Config) -> Iterator[Problem]:
    model, source = config.model, config.model.source
    needed, optional = MODEL_KEYS[source]
    takes = f"{source.value} takes {', '.join(needed + optional)}"
    complete = True
    for field in fields(Model):
        default = {} if field.default is MISSING else field.default
        given = field.name != "source" and getattr(model, field.name) != default
        where = f"model.{field.name}"
        if field.name in needed and not given:
            complete = False
            yield Problem(f"model.source={source.value} needs {where}", where, f"give it; {takes}")
        elif given and field.name not in needed + optional:
            fix = f"remove it from the file, or choose another option of model/; {takes}"
            yield Problem(f"{where} has no effect with model.source={source.value}", where, fix)
    if source is Source.hub and model.trust_remote_code and not COMMIT.fullmatch(model.revision):
        what = f"model.trust_remote_code runs code of a revision that can change, {model.revision}"
        fix = "read the code, and give the commit that you have read, as its 40 hexadecimal digits"
        yield Problem(what, "model.revision", fix)
    if complete:
        try:
            sources.find(model)
        except UserError as error:
            yield from error.problems


def _sequence(config: Config) -> Iterator[Problem]:
    if config.axes.sequence > config.cache.size:
        yield Problem(
            f"axes.sequence={config.axes.sequence} tokens do not fit into cache.size={config.cache.size}",
            "axes.sequence",
            f"axes.sequence={config.cache.size} at most, or a larger cache",
        )


def _opset(config: Config) -> Iterator[Problem]:
    if config.export.opset not in OPSETS:
        fix = f"choose {' or '.join(map(str, OPSETS))}; 24 is the first that can write a cache in place"
        yield Problem(f"export.opset={config.export.opset} is not supported", "export.opset", fix)


def _prompts(config: Config) -> Iterator[Problem]:
    if not config.verify.prompts or not all(text.strip() for text in config.verify.prompts):
        yield Problem("a prompt is missing or empty", "verify.prompts", "give at least one text: [The capital of]")


def _greedy(config: Config) -> Iterator[Problem]:
    if config.verify.greedy_tokens > config.cache.size:
        where = "verify.greedy_tokens"
        what = f"{where}={config.verify.greedy_tokens} do not fit into cache.size={config.cache.size}"
        yield Problem(what, where, f"{where}={config.cache.size} at most, or a larger cache")


def _texts(config: Config) -> Iterator[Problem]:
    for text, use in (
        (config.verify.quality.text, texts.QUALITY),
        (config.quantize.calibration.text, texts.CALIBRATION),
    ):
        try:
            texts.find(text, use)
        except UserError as error:
            yield from error.problems


def _quality_tokens(config: Config) -> Iterator[Problem]:
    if config.verify.quality.tokens == 1:
        fix = "2 or more, or 0 to measure no quality"
        yield Problem("one token is no text: none is predicted", "verify.quality.tokens", fix)


def _quality_window(config: Config) -> Iterator[Problem]:
    quality, size = config.verify.quality, config.cache.size
    if quality.tokens and quality.window > size:
        where = "verify.quality.window"
        what = f"{where}={quality.window} tokens do not fit into cache.size={size}"
        yield Problem(what, where, f"{where}={size} at most, or a larger cache")


def _bench_tokens(config: Config) -> Iterator[Problem]:
    total = config.bench.prompt + config.bench.new_tokens
    if total > config.cache.size:
        what = f"bench.prompt + bench.new_tokens = {total} tokens do not fit into cache.size={config.cache.size}"
        yield Problem(what, "bench.new_tokens", "measure fewer tokens, or take a larger cache")


def _bench_inside(config: Config, step: str, axis: str, key: str) -> Iterator[Problem]:
    value, ends = getattr(config.bench, key), getattr(getattr(config.profile, step), axis)
    if not ends.min <= value <= ends.max:
        what = f"bench.{key}={value} is outside profile.{step}.{axis}, {ends.min} to {ends.max}"
        yield Problem(what, f"bench.{key}", "choose a size inside the profile, or widen the profile")


Rule = Callable[[Config], Iterator[Problem]]
RULES: tuple[Rule, ...] = (
    _name,
    _model,
    _sequence,
    *rules_profiles.RULES,
    *rules_engine.RULES,
    _opset,
    _prompts,
    _greedy,
    _texts,
    _quality_tokens,
    _quality_window,
    _bench_tokens,
    functools.partial(_bench_inside, step="prefill", axis="sequence", key="prompt"),
    functools.partial(_bench_inside, step="prefill", axis="batch", key="batch"),
    functools.partial(_bench_inside, step="decode", axis="batch", key="batch"),
)
