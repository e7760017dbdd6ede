"""The result of one artifact in one case: its figures, and where it misses a gate."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.core.contract import CACHE_TYPES, GraphContract
from pipeline.core.schema import CacheGates, CacheLimits, CacheType, Gates, Quality
from pipeline.proof.metrics import METRICS, Found

GATES = "verify.gates"
QUALITY = "verify.quality"
NOT_FINITE = "not finite"  # in the failure of every NaN and infinity


def for_json(figure: float) -> float | str:
    """The figure, or its name as text when it is not finite: JSON has no NaN."""
    return figure if np.isfinite(figure) else str(figure)


@dataclass(frozen=True)
class Limit:
    """The worst value of a metric that passes, and the config key that sets it."""

    value: float
    key: str


Limits = Mapping[str, Limit]  # metric -> its limit


@dataclass(frozen=True)
class Written:
    """Greedy text as tokens: a prompt, what an artifact continued it with, and what the original does."""

    prompt: list[int]
    tokens: list[int]
    original: list[int]


def limits(gates: Gates | Quality, section: str = GATES) -> dict[str, Limit]:
    """The limit of each metric whose gate is in this section of the configuration."""
    return {
        metric.name: Limit(getattr(gates, metric.key), f"{section}.{metric.key}")
        for metric in METRICS.values()
        if metric.section is type(gates)
    }


def with_cache(limits: dict[str, Limit], contract: GraphContract, gates: CacheGates) -> dict[str, Limit]:
    """The limits of an artifact: with a quantized cache those of its type, where they allow more."""
    if not contract.scales:
        return limits
    dtype = CacheType.int8 if contract.caches[0].dtype == CACHE_TYPES[8] else CacheType.int4
    costs: CacheLimits = getattr(gates, dtype.value)
    found = dict(limits)
    for name, value in asdict(costs).items():  # its keys are names of metrics
        if name in found and METRICS[name].passes(found[name].value, value):
            found[name] = Limit(value, f"verify.cache_gates.{dtype.value}.{name}")
    return found


@dataclass
class Result:
    """One artifact in one case. `failures` name the tensor; the case passed when there are none.

    not_run: why the case was left out; empty when it ran.
    traceback: of the exception that ended the case.
    not_finite: the first tensor that held a NaN or an infinity.
    widened: metrics whose gate was missed only by rows that are sensitive enough to rounding, and what was allowed.
    dropped: the most first tokens of a row that a cache no longer held at the end, so that they were not compared.
    limits: of the metrics that were gated.
    written: the greedy text of each row.
    """

    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    not_run: str = ""
    traceback: str = ""
    not_finite: str = ""
    widened: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    limits: dict[str, Limit] = field(default_factory=dict)
    written: list[Written] = field(default_factory=list)

    def record(self, name: str, value: float) -> None:
        """Record a figure of METRICS. Raises KeyError for any other."""
        self.figures[METRICS[name].name] = value

    def gate(self, name: str, found: Iterable[Found], limit: Limit) -> None:
        """Record the worst value of a figure, and a failure when it misses its limit."""
        value, where = METRICS[name].worst(found)
        self.record(name, value)
        self.limits[name] = limit
        if not np.isfinite(value):
            self.nonfinite(where)
        elif not METRICS[name].passes(value, limit.value):
            self.failures.append(f"{name} is {value:.4g} in {where}, {limit.key} is {limit.value:g}")

    def nonfinite(self, where: str) -> None:
        """Record a tensor that holds a NaN or an infinity."""
        self.not_finite = self.not_finite or where
        if (failure := f"{where} is {NOT_FINITE}") not in self.failures:
            self.failures.append(failure)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        if self.not_run:
            return {"not_run": self.not_run}
        figures = {name: for_json(value) for name, value in self.figures.items()}
        more: dict[str, object] = {"dropped": self.dropped} if self.dropped else {}
        if self.widened:
            more["widened"] = {name: for_json(value) for name, value in self.widened.items()}
        raised = {"traceback": self.traceback.splitlines()} if self.traceback else {}
        return {"passed": not self.failures, **figures, "failures": self.failures, **more, **raised}


def limits_of(cases: Mapping[str, Result]) -> dict[str, Limit]:
    """The limits of an artifact in the order of METRICS: its cases share them."""
    held = {name: limit for result in cases.values() for name, limit in result.limits.items()}
    return {name: held[name] for name in METRICS if name in held}
