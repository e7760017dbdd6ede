"""A point's artifacts as records."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError, first_line
from pipeline.core.files import read_json
from pipeline.core.schema import Config
from pipeline.core.tables.engines import CPU, KINDS, EngineKind
from pipeline.planning.estimate import Cost
from pipeline.planning.history import Run
from pipeline.reporting import cost, locked, operators, parity, rounding
from pipeline.reporting.records import (
    FAILED,
    NOT_RUN,
    OUTDATED,
    UNBUILT,
    UNFINISHED,
    VERIFIED,
    Artifact,
    Point,
    Speed,
)

SETTINGS = (  # keys of params.yaml that tell points apart
    "precision.compute",
    "quantize.weights",
    "quantize.block_size",
    "quantize.rounding",
    "quantize.embedding",
    "cache.size",
    "cache.dtype",
    "axes.batch",
    "axes.sequence",
    "engine.kind",
    "engine.provider",
    "engine.lower",
    "engine.int8_activations",
    "engine.window_cache",
    "verify.quality.tokens",
    "bench.batch",
    "bench.prompt",
    "bench.new_tokens",
)
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
MB = 2**20
STEPS = 32  # decode steps that are kept of a latency.json
SHOWN = 3  # failures that say why a point failed
SPEED = ("prefill_s", "decode_tok_s", "step_ms", "load_s", "peak_mb", "model_mb")


class Planner(Protocol):
    """What estimates a point: reporting.estimates."""

    def of(self, params: Path) -> tuple[dict[str, Cost], str]:
        """The cost of each stage, or none and why."""


@dataclass(frozen=True)
class Sources:
    """What a point is read from, besides its folder."""

    artifacts: Path
    planner: Planner
    runs: Sequence[Run] = ()
    lock: locked.Lock = field(default_factory=dict)


class Reports:
    """The JSON files of a point's folder; `damaged` has those that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []

    def read(self, *path: str) -> dict[str, Any]:
        """Read a file's object; an empty one for a file that is missing."""
        file = self.folder.joinpath(*path)
        try:
            return read_json(file) if file.exists() else {}
        except UserError as error:
            self.damaged += [problem.what for problem in error.problems]
            return {}


def point(name: str, overrides: Sequence[str], sources: Sources) -> Point:
    """Read a point of params.yaml. Its folder need not be there, nor any file in it."""
    folder, given = sources.artifacts / name, tuple(overrides)
    reports = Reports(folder)
    lineage = reports.read(layout.LINEAGE)
    if not (folder / layout.PARAMS).exists():
        for run in lineage.get("stages", ()):
            if run["outcome"] == "failed":
                return Point(name, FAILED, (f"stage {run['stage']}: {run['error'] or 'no error was noted'}",), given)
        return Point(name, UNBUILT, (f"build it: dvc repro verify@{name} bench@{name}",), given)
    try:
        params = _params(folder / layout.PARAMS)
    except (OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        fix = f"{layout.PARAMS} is damaged, or of another version of kvforge: dvc repro compose@{name}"
        return Point(name, OUTDATED, (fix, first_line(error)), given)
    missing = cost.first_missing(folder)
    # verify and bench read the same files; those of a stage before them are of an earlier build where one is missing
    current = missing in (None, "verify", "bench")
    report = reports.read(layout.VERIFY) if current else {}
    measured = reports.read(layout.BENCH) if current else {}
    proven = parity.artifacts(report)
    cache = _cache(reports.read(layout.ENGINE, layout.ENGINE_INFO))
    rounded = rounding.rounded(reports.read(layout.QUANTIZED, layout.QUANTIZATION))
    costs, no_plan = sources.planner.of(folder / layout.PARAMS)
    stages = cost.stages(folder, lineage, sources.runs, costs)
    errors = {stage.name: stage.error or "no error was noted" for stage in stages if stage.outcome == "failed"}
    changed = list(locked.changes(sources.lock, name, overrides, params))
    state, reasons = _state(name, missing, errors, changed, report, proven)
    return Point(
        name=name,
        state=state,
        why=(*reasons, *reports.damaged),
        overrides=given,
        model=model_name(params["model"]),
        kind=_kind(params),
        settings={key: _select(params, key) for key in SETTINGS},
        built=str(lineage.get("when") or ""),
        host=str(lineage.get("host") or ""),
        stages=stages,
        no_plan=no_plan,
        artifacts=proven,
        notes=tuple(report.get("notes", ())),
        quality=_quality(proven),
        speed=_speed(measured, folder / layout.LATENCY, params["bench"]) if measured else None,
        not_measured=str(measured.get("skipped", "")),
        cache_mb=cache,
        operators=operators.operators(folder),
        rounded=rounded,
        texts=parity.texts(report),
    )


def _params(path: Path) -> dict[str, Any]:
    """A point's params.yaml as plain values. Raises an error of OmegaConf, YAML or the system when it does not fit the
    schema."""
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path))
    params: Any = OmegaConf.to_container(merged, resolve=True, enum_to_str=True, throw_on_missing=True)
    return {str(section): values for section, values in params.items()}


def _state(
    name: str,
    missing: str | None,
    errors: Mapping[str, str],
    changed: list[str],
    report: Mapping[str, Any],
    proven: tuple[Artifact, ...],
) -> tuple[str, list[str]]:
    """The state, and why it is none of the good ones. errors: of the stages that failed in the last build."""
    if report and report.get("passed") is not True:
        found = list(parity.failures(proven))
        more = [f"{len(found) - SHOWN} more cases failed"] if len(found) > SHOWN else []
        return FAILED, [*found[:SHOWN], *more]
    if missing is not None:
        if missing in errors:
            return FAILED, [f"stage {missing}: {errors[missing]}"]
        return UNFINISHED, [f"stage {missing} has not run, or failed: dvc repro verify@{name} bench@{name}"]
    if changed:
        return OUTDATED, changed
    skipped = report.get("skipped", {}).get(layout.ENGINE)
    return (NOT_RUN, [f"the engine was not run: {skipped}"]) if skipped else (VERIFIED, [])


def model_name(model: Mapping[str, Any]) -> str:
    """A model for people: equal for points whose figures can be compared."""
    if model["source"] == "hub":
        return f"{model['id']} at {model['revision']}"
    if model["source"] == "random":
        sizes = ", ".join(f"{key} {value}" for key, value in sorted((model["config"] or {}).items()))
        return f"random {model['architecture']}, seed {model['seed']}" + (f" ({sizes})" if sizes else "")
    return str(model["path"])


def _kind(params: Mapping[str, Any]) -> str:
    """Such as int8, or fp32 with a cache of int8; with the engine unless it is ONNX Runtime's on the CPU."""
    weights, cache = params["quantize"]["weights"], params["cache"]["dtype"]
    compute = params["precision"]["compute"]
    kind = compute if weights == "none" else weights if compute == "fp32" else f"{weights} in {compute}"
    provider = params["engine"].get("provider")
    engine = KINDS[EngineKind(params["engine"]["kind"])].product
    if EngineKind(params["engine"]["kind"]) is EngineKind.onnxruntime_client:
        engine = "for clients"
    elif provider:
        engine = "" if provider == CPU else provider.removesuffix("ExecutionProvider")
    return ", ".join(filter(None, (kind, "" if cache == "auto" else f"{cache} cache", engine)))


def _select(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _quality(proven: tuple[Artifact, ...]) -> dict[str, float]:
    """The worst figures of the engine."""
    return {
        metric: worst.value
        for artifact in proven
        if artifact.name == layout.ENGINE
        for metric, worst in artifact.worst.items()
    }


def _speed(measured: Mapping[str, Any], latency: Path, bench: Mapping[str, Any]) -> Speed | None:
    if not all(isinstance(measured.get(key), int | float) for key in SPEED):
        return None
    try:
        steps = [
            (bench["prompt"] + each["token"], each["ms"]) for each in json.loads(latency.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError):
        steps = []
    return Speed(**{key: measured[key] for key in SPEED}, steps=thinned(steps))


def thinned(steps: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """At most STEPS steps: of so many neighbours the mean place and the median time."""
    size = -(-len(steps) // STEPS) or 1
    parts = [steps[first : first + size] for first in range(0, len(steps), size)]
    return tuple((fmean(at for at, _ in part), round(median(ms for _, ms in part), 3)) for part in parts)


def _cache(info: Mapping[str, Any]) -> float | None:
    try:
        contract = GraphContract.from_dict(info["signature"])
        kept = (*contract.caches, *contract.states)
        return sum(prod(tensor.sized(batch=1)) * BYTES[tensor.dtype] for tensor in kept) / MB
    except (KeyError, TypeError, ValueError):
        return None
