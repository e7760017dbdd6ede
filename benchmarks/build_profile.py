"""Where the time of stages wrap, export and simplify goes, by steps.

    python -m benchmarks.build_profile smollm2

Each stage runs in a copy of a built point's folder, as a process of its own, whose steps take the time: seconds of
processor time, with the imports that a step causes. Writes build_profile.md.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.core import layout

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "build_profile.md"
ROUNDS = 3
# stage -> (step, module, and the function in it, which may be an attribute's attribute); imports are what comes before
STEPS = {
    "wrap": [
        ("configuration and the model without weights", "pipeline.wrapping.program", "loading.empty_model"),
        ("a run without weights", "pipeline.wrapping.program", "dry_run.refusal"),
        ("weights are loaded", "pipeline.wrapping.program", "loading.load"),
        ("tokenizer", "pipeline.wrapping.program", "load_tokenizer"),
        ("torch.export traces", "pipeline.wrapping.program", "trace"),
        ("the program is written", "pipeline.wrapping.program", "torch.export.save"),
    ],
    "export": [
        ("the program is read", "pipeline.export", "pt2.load"),
        ("torch.onnx translates", "pipeline.export", "torch.onnx.export"),
        ("the graph is written", "pipeline.export", "onnx_file.save"),
    ],
    "simplify": [
        ("onnxsim", "pipeline.simplify", "onnxsim"),
        ("the graph is written", "pipeline.simplify", "shutil.copyfile"),
    ],
}


def timed(spent: dict[str, float], step: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function and add its processor time, and that of its processes, to spent[step]."""
    before = _now()
    try:
        return function(*args, **options)
    finally:
        spent[step] = spent.get(step, 0) + _now() - before


def _now() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def inside(stage: str) -> None:
    """Run a stage in the current folder and print its steps as JSON."""
    spent: dict[str, float] = {}
    for module in dict.fromkeys(module for _, module, _ in STEPS[stage]):
        importlib.import_module(module)
    spent["imports"] = _now()
    for step, module, name in STEPS[stage]:
        owner: Any = sys.modules[module]
        *path, last = name.split(".")
        for each in path:
            owner = getattr(owner, each)
        setattr(owner, last, partial(timed, spent, step, getattr(owner, last)))
    importlib.import_module(f"pipeline.{stage}").main()
    spent["the rest"] = _now() - sum(spent.values())
    print("\n" + json.dumps(spent))


def measured(stage: str, point: Path) -> dict[str, float]:
    """Median seconds of each step."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runs = []
    for _ in range(ROUNDS):
        code = f"from benchmarks.build_profile import inside; inside({stage!r})"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=point, env=environment, capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {step: median(run.get(step, 0) for run in runs) for step in runs[0]}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.build_profile", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("point")
    name = parser.parse_args().point
    made = "# Where the time of a build goes\n\n| stage | step | seconds | share of all |\n|---|---|--:|--:|\n"
    with tempfile.TemporaryDirectory(dir=ROOT / "artifacts") as folder:
        point = Path(folder)
        source = ROOT / "artifacts" / name
        for entry in source.iterdir():
            if entry.name not in (layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED, layout.ENGINE, layout.QUANTIZED):
                (point / entry.name).symlink_to(entry.resolve())
        found = {stage: measured(stage, point) for stage in STEPS}
        total = sum(sum(steps.values()) for steps in found.values())
        for stage, steps in found.items():
            for step, seconds in steps.items():
                made += f"| {stage} | {step} | {seconds:.1f} | {seconds / total:.0%} |\n"
    made += f"""
* `python -m benchmarks.build_profile {name}`: seconds of processor time of a process, medians of {ROUNDS} runs.
* A program is written and read by PyTorch: its `torch.export.save` copies every node's description and
  `torch.export.load` resolves the types of every description again. Patches of both were tried and left out.
* A builder that writes a graph for each architecture by hand, as onnxruntime-genai's, neither traces nor reads a
  program: [beside other builders](builds.md).
"""
    OUT.write_text(made, encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
