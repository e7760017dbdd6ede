"""Points for tests of the report: a built one, and many that differ in their numbers."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import yaml

from pipeline.core import layout
from pipeline.reporting.records import VERIFIED, Point, Speed

KEPT = (  # what the report reads, besides sizes
    layout.PARAMS,
    layout.VERIFY,
    layout.ACCURACY,
    layout.BENCH,
    layout.LATENCY,
    f"{layout.WRAPPED}/{layout.PROGRAM}",
    f"{layout.ONNX}/{layout.MODEL}",
    f"{layout.SIMPLIFIED}/{layout.MODEL}",
    f"{layout.SIMPLIFIED}/{layout.CHANGES}",
    f"{layout.QUANTIZED}/{layout.QUANTIZATION}",
    f"{layout.QUANTIZED}/{layout.MODEL}",
    f"{layout.ENGINE}/{layout.ENGINE_INFO}",
    f"{layout.ENGINE}/{layout.MODEL}",
)
REASONS = ["params.yaml: cache.size modified", "pipeline/graph modified"]
KINDS = {  # name: weights, their increase of perplexity, and times as fast as fp32
    "fp32": ("none", 1e-7, 1.0),
    "int8": ("int8", 4e-3, 2.5),
    "int4": ("int4", 6e-2, 3.5),
}


def point(name: str, tokens: float = 10.0, increase: float = 0.0, **more: Any) -> Point:
    """A measured point that was not read from files. peak, slots, rows, steps: of its speed and settings; others are
    the record's own keys."""
    settings = {"cache.size": more.pop("slots", 64), "bench.batch": more.pop("rows", 1), "bench.prompt": 8}
    speed = Speed(0.1, tokens, 1e3 / tokens, 0.5, more.pop("peak", 100.0), 50.0, more.pop("steps", ()))
    quality = {"perplexity": 20 * (1 + increase), "perplexity_original": 20.0, "perplexity_increase": increase}
    given = {"state": VERIFIED, "why": (), "overrides": (), "model": "m", "kind": "int8", "settings": settings}
    return Point(name, **given | {"speed": speed, "quality": quality} | more)


def copy(source: Path, target: Path) -> Path:
    """Copy the files of a built point that the report reads."""
    for name in KEPT:
        if (source / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    for name in (layout.CHECKPOINT, layout.TEXT, layout.CALIBRATION):
        (target / name).touch()
    return target


def edit(path: Path, change: Any) -> None:
    """Change a JSON file: `change` gets its value, and changes it in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def lineage(point: Path, **outcomes: str) -> None:
    """Write a lineage.json in which each of these stages has this outcome; the others were restored."""
    names = ("compose", "wrap", "export", "simplify", "quantize", "engine", "verify", "bench")
    stages = [
        {
            "stage": name,
            "outcome": outcome,
            "why": REASONS if outcome == "ran" else [],
            "seconds": 12.5 if outcome == "ran" else None,
            "peak": 2**30 if outcome == "ran" else None,
            "error": "error: out of patience" if outcome == "failed" else None,
        }
        for name in names
        if (outcome := outcomes.get(name, "restored"))
    ]
    noted = {"when": "2026-11-28T12:00:00+00:00", "host": "here", "stages": stages}
    (point / layout.LINEAGE).write_text(json.dumps(noted), encoding="utf-8")


def many(source: Path, artifacts: Path, count: int) -> dict[str, list[str]]:
    """Make `count` points of a built one: kinds of weights, sizes of the cache and rows, with numbers to match. Some
    fail. Returns their overrides, by name."""
    found = {}
    rng = random.Random(0)  # noqa: S311  # not for secrets
    for number in range(count):
        kind = list(KINDS)[number % 3]
        weights, increase, factor = KINDS[kind]
        slots, rows = 2 ** (8 + number // 3 % 5), (1, 1, 1, 8)[number // 15 % 4]
        overrides = [f"precision={kind}", f"cache.size={slots}", f"bench.batch={rows}"]
        name = f"smollm2-{kind}-cache_size_{slots}-rows_{rows}-{number}"
        found[name] = overrides
        point = copy(source, artifacts / name)
        params = yaml.safe_load((point / layout.PARAMS).read_text(encoding="utf-8"))
        params["quantize"]["weights"] = weights
        params["cache"]["size"], params["bench"]["batch"] = slots, rows
        (point / layout.PARAMS).write_text(yaml.safe_dump(params), encoding="utf-8")
        step = 27 / factor * (1 + slots / 8192) * (1 + 0.1 * rows) * rng.uniform(0.9, 1.1)
        lost = increase * rng.uniform(0.7, 1.5)

        def slower(bench: dict[str, Any], step: float = step, rows: int = rows, factor: float = factor) -> None:
            bench |= {"step_ms": round(step, 3), "decode_tok_s": round(1e3 / step * rows, 2), "model_mb": 517 / factor}
            bench |= {"peak_mb": 700 / factor + rng.uniform(0, 50), "prefill_s": 0.1}

        def worse(report: dict[str, Any], lost: float = lost, number: int = number) -> None:
            quality = report["artifacts"]["engine"]["quality"]
            quality["perplexity_increase"] = lost
            quality["perplexity"] = quality["perplexity_original"] * (1 + lost)
            if number % 19 == 7:
                report["passed"] = quality["passed"] = False
                quality["failures"] = [f"perplexity_increase is {lost:.4g} in 248 predicted tokens, the gate is 1e-9"]

        edit(point / layout.BENCH, slower)
        edit(point / layout.VERIFY, worse)
        times = [{"token": i, "ms": round(step * rng.uniform(0.95, 1.05) * (1 + i / 400), 3)} for i in range(64)]
        (point / layout.LATENCY).write_text(json.dumps(times), encoding="utf-8")
        lineage(point, engine="ran", verify="ran", bench="ran")
    return found
