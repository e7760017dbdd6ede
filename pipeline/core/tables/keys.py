"""Configuration keys: how pipeline.core.schema declares one, with its meaning and the values that it accepts, and the
choices of those that are a choice between names.

    @dataclass
    class Cache:
        size: int = key("Slots per row.", COUNT)
"""

import math
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from typing import Any

REQUIRED: Any = "???"  # OmegaConf's mark for a key without a value


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
            return f"{self.least:g} to {self.most:.0f}"
        return f"{self.least:g} or more" if self.closed else f"above {self.least:g}"


COUNT, NOT_NEGATIVE, POSITIVE, SHARE = Interval(1), Interval(0), Interval(0, closed=False), Interval(0, 1)
SEED = Interval(0, 2**32 - 1)  # what both torch and numpy take


@dataclass(frozen=True)
class Key:
    """What is declared of a key.

    meaning: in plain words, for people. interval: numbers that it accepts; None for any. allowed: values that it
    accepts, where neither its type nor an interval tells; a rule checks them. needed_by, used_by: the values of
    model.source or engine.kind that cannot do without it, and the others with which it has an effect.
    """

    meaning: str
    interval: Interval | None = None
    allowed: tuple[Any, ...] = ()
    used_by: tuple[Enum, ...] = ()
    needed_by: tuple[Enum, ...] = ()
    type: Any = None
    default: Any = REQUIRED

    @property
    def effective_with(self) -> tuple[Enum, ...]:
        """The values of model.source or engine.kind with which it has an effect; empty for all."""
        return self.used_by + self.needed_by


def key(meaning: str, interval: Interval | None = None, *, default: Any = REQUIRED, **more: Any) -> Any:
    """A dataclass's field; `more`: see Key. A class as default is called: dict, list or a section."""
    if isinstance(default, type):
        return field(default_factory=default, metadata={"key": Key(meaning, interval, default=default(), **more)})
    return field(default=default, metadata={"key": Key(meaning, interval, default=default, **more)})


def keys_of(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Every key of a section by its dotted name, those of its sections too, in order."""
    types = typing.get_type_hints(section)
    for one in fields(section):
        yield f"{prefix}{one.name}", replace(one.metadata["key"], type=types[one.name])
        if is_dataclass(types[one.name]):
            yield from keys_of(types[one.name], f"{prefix}{one.name}.")


class Source(Enum):
    """Where a model comes from."""

    hub = "hub"
    local = "local"
    gguf = "gguf"
    random = "random"


class ComputeType(Enum):
    """Type of activations and weights, and of a cache that is not quantized."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class CacheType(Enum):
    """Type of the cache; auto for the compute type."""

    auto = "auto"
    int8 = "int8"
    int4 = "int4"

    @property
    def bits(self) -> int:
        """Of a number in a quantized cache; 0 for auto."""
        return 0 if self is CacheType.auto else int(self.value.removeprefix("int"))


class Find(Enum):
    """What a search over points is for."""

    smallest = "smallest"
    fastest = "fastest"


class Logits(Enum):
    """Which positions get logits."""

    last = "last"
    all = "all"


class Embedding(Enum):
    """Type of the embedding and the LM head; none leaves them. ONNX's Gather does not take int4."""

    none = "none"
    int8 = "int8"


class Rounding(Enum):
    """How linear layers' weights become whole numbers."""

    nearest = "nearest"
    gptq = "gptq"


class Optimization(Enum):
    """ONNX Runtime's graph optimization level when the engine is loaded."""

    none = "none"
    basic = "basic"
    extended = "extended"
    all = "all"
