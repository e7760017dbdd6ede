"""The engines of this project that differ in their cache's size: that is fixed when a point is built."""

import subprocess
import sys
from pathlib import Path

# name -> overrides. The same model in the smallest and the largest cache: does what is allocated cost time?
POINTS = {
    "smollm2-cache512": ["cache.size=512"],
    "smollm2-cache8192": ["cache=8k"],
}
PYTHON = Path(".venv/bin/python")


def build_missing() -> None:
    """Have the front door build (and prove) the points that are not there yet, minutes each; they are recorded in
    params.yaml like any other. A failure is told and costs only their rows."""
    for name, overrides in POINTS.items():
        if (Path("artifacts") / name / "engine" / "engine.json").exists():
            continue
        command = [str(PYTHON), "-m", "pipeline", *overrides, f"point={name}"]
        print("building a point:", *command[1:], file=sys.stderr)
        if not PYTHON.exists() or subprocess.run(command, stdout=sys.stderr).returncode:
            print(f"no rows for {name}: build it with python -m pipeline {' '.join(command[3:])}", file=sys.stderr)
