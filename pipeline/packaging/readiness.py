"""Whether a point can be packaged: an engine that the runner runs, and a proof that holds for it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.core import layout
from pipeline.core.errors import Problem
from pipeline.core.files import read_json
from pipeline.core.tables.engines import CPU, KINDS, EngineKind
from pipeline.runtime.engine_info import EngineInfo


def problems(point: Path, engine: EngineInfo) -> Iterator[Problem]:
    """Yield why a point cannot be packaged; `engine`: what its engine.json says."""
    runs_on = KINDS[engine.kind].product
    if engine.kind is not EngineKind.onnxruntime or engine.raw["provider"] != CPU:
        if engine.kind is EngineKind.onnxruntime:
            runs_on = engine.raw["provider"]
        what = f"the engine runs on {runs_on}; a package runs on ONNX Runtime's {CPU}"
        yield Problem(what, str(point / layout.ENGINE), "build a point with engine=onnxruntime_cpu and package that")
    tokenizer = point / layout.ENGINE / "tokenizer_config.json"
    if tokenizer.exists() and not tokenizer.with_name("tokenizer.json").exists():
        what = "the tokenizer has no tokenizer.json: only transformers runs it, which a package does without"
        yield Problem(what, str(tokenizer), "save the tokenizer as a fast one beside the checkpoint, and build again")
    yield from _proof(point)


def _proof(point: Path) -> Iterator[Problem]:
    path, fix = point / layout.VERIFY, f"dvc repro verify@{point.name}"
    if not path.exists() or not (point / layout.ACCURACY).exists():
        yield Problem("the engine has not been verified", str(path), fix)
        return
    report = read_json(path)
    if report.get("passed") is not True:
        yield Problem("the engine did not pass", str(path), f"{fix} shows the failures; correct their cause")
    elif layout.ENGINE in report.get("skipped", {}):
        what = f"the engine was not run where it was verified: {report['skipped'][layout.ENGINE]}"
        yield Problem(what, str(path), f"{fix} on a machine that runs it")
    elif layout.ENGINE not in report.get("artifacts", {}):
        yield Problem("the report does not have the engine", str(path), fix)


def changed(name: str, artifacts: Path) -> list[Problem]:
    """Which files of a point are not those that DVC's last `verify` saw. DVC that cannot tell is one problem."""
    targets = [f"{stage}@{name}" for stage in ("engine", "verify")]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json", *targets]
    done = subprocess.run(command, capture_output=True, text=True)
    fix = f"dvc repro verify@{name}"
    try:
        status: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        what = f"DVC cannot tell whether the engine is the one that was verified: {said[-1] if said else 'no output'}"
        return [Problem(what, str(artifacts / name), fix)]
    point = f"{artifacts / name}/"
    proven = {f"{point}{file}" for file in (layout.ENGINE, layout.VERIFY, layout.ACCURACY)}
    found = {
        path: state
        for entries in status.values()
        for entry in entries
        if isinstance(entry, dict)  # else "changed command" and the like
        for paths in entry.values()
        for path, state in (paths.items() if isinstance(paths, dict) else ())
        if path in proven
    }
    return [Problem(f"{state} since it was verified", path, fix) for path, state in found.items()]
