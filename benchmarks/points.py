"""The engines of this project that are measured: precisions, and sizes of the cache, which are fixed in an engine."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import USUAL_CACHE, Case

PRECISIONS = {
    "smollm2": [],
    "smollm2-int8": ["precision=int8"],
    "smollm2-int4": ["precision=int4"],
    "smollm2-int4-exact": ["precision=int4", "engine.int8_activations=false"],  # as accurate as fp32
}
# The same model in the smallest and the largest cache: does what is allocated cost time?
CACHES = {
    "smollm2-cache512": ["cache.size=512"],
    "smollm2-cache8192": ["cache=8k"],
}
BIN = Path(".venv/bin")


def build_missing(cases: Sequence[Case]) -> None:
    """Record the points that the cases want in params.yaml, and have DVC build their engines (not prove them: that is
    `dvc repro verify@NAME`). A failure is told and costs only their rows."""
    wanted = PRECISIONS | (CACHES if any(case.cache != USUAL_CACHE for case in cases) else {})
    environment = {**os.environ, "PATH": f"{BIN.resolve()}{os.pathsep}{os.environ.get('PATH', '')}"}
    for name, overrides in wanted.items():
        if (Path("artifacts") / name / "engine" / "engine.json").exists():
            continue
        print("building the engine of a point:", name, *overrides, file=sys.stderr)
        record = f"from pipeline.config import points; points.record({name!r}, {overrides!r})"
        for command in ([BIN / "python", "-c", record], [BIN / "dvc", "repro", f"engine@{name}"]):
            if not BIN.exists() or subprocess.run(command, stdout=sys.stderr, env=environment).returncode:
                print(f"no rows for {name}: build it with dvc repro engine@{name}", file=sys.stderr)
                break
