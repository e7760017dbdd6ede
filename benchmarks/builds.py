"""Time to build the portable ONNX in fp32, beside its peers: every step in a fresh process, in turn.

Builds from safetensors, from which the peers build too, and from the GGUF file as `make run` does. Writes builds.json
(rows system, seconds, peak_mb, steps) and builds.md: medians; memory is that of the hungriest process.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import convert
from benchmarks.cases import interleaved
from benchmarks.points import BIN
from benchmarks.systems import OURS, PEERS

HERE = Path(__file__).parent
SCRATCH = Path(".bench").resolve()
ROOT = Path().resolve()
STAGES = ("wrap", "export", "simplify")
# transformers.exporters takes minutes: see build_s of make bench
PEERS_BUILT = ("onnxruntime-genai fp32", "mobius fp32")


def run(command: Sequence[str | Path], folder: Path, log: Path) -> tuple[float, float]:
    """(seconds, most memory in MB) of one process and of the processes that it waits for. Raises SystemExit when it
    fails."""
    start = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        )
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(str(word) for word in command)} failed: see {log}")
    return seconds, used.ru_maxrss / 2**10


def ours(name: str, overrides: Sequence[str]) -> dict[str, tuple[list[str | Path], Path]]:
    """step -> (command, folder) of this project's stages, without DVC, in a workspace of their own."""
    space = SCRATCH / "builds" / name
    shutil.rmtree(space, ignore_errors=True)
    space.mkdir(parents=True)
    (space / "conf").symlink_to(ROOT / "conf")
    (space / "params.yaml").write_text(json.dumps({"points": {name: list(overrides)}}))
    run([ROOT / BIN / "python", "-m", "pipeline.compose", name], space, SCRATCH / "logs" / f"{name}.compose")
    return {stage: ([ROOT / BIN / "python", "-m", f"pipeline.{stage}"], space / "artifacts" / name) for stage in STAGES}


def theirs(name: str, source: Path) -> dict[str, tuple[list[str | Path], Path]]:
    """step -> (command, folder) of a peer's conversion."""
    peer = next(peer for peer in PEERS if str(peer) == name)
    folder = SCRATCH / "builds" / peer.slug
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.convert", peer.module, source, folder]
    command.append(json.dumps(peer.options))
    if peer.module == "genai":  # a command of its own: nothing around it
        from benchmarks.peers import genai

        command = [*genai.builder(source, folder, peer.precision)]
    return {"build": (command, folder)}


def rows(results: dict[str, list[dict[str, tuple[float, float]]]]) -> list[dict[str, Any]]:
    """From each system's rounds: the median time of all steps together and of each, and the peak."""
    return [
        {
            "system": name,
            "seconds": round(median(sum(seconds for seconds, _ in steps.values()) for steps in rounds), 1),
            "peak_mb": round(median(max(peak for _, peak in steps.values()) for steps in rounds)),
            "steps": {step: round(median(steps[step][0] for steps in rounds), 1) for step in rounds[0]},
            "rounds": len(rounds),
        }
        for name, rounds in results.items()
    ]


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown, quickest first."""
    lines = ["| system | seconds | peak MB | steps |", "|---|--:|--:|---|"]
    for row in sorted(found, key=lambda row: row["seconds"]):
        steps = ", ".join(f"{step} {seconds}" for step, seconds in row["steps"].items())
        lines.append(f"| {row['system']} | {row['seconds']} | {row['peak_mb']} | {steps} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the rows and their table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builds", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE, help="where results go")
    asked = parser.parse_args()
    (SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    source = convert.checkpoint(SCRATCH)
    local = ["model.source=local", f"model.path={source}", "model.package=null"]
    systems = {f"{OURS} from GGUF": ours("gguf", []), f"{OURS} from safetensors": ours("safetensors", local)}
    systems |= {name: theirs(name, source) for name in PEERS_BUILT}
    results: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in systems}
    for number, name in interleaved(list(systems), asked.rounds):
        print(f"round {number + 1} of {asked.rounds}: {name}", file=sys.stderr)
        steps = {}
        for step, (command, folder) in systems[name].items():
            if step == "build":  # what a builder finds there it might reuse
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            steps[step] = run(command, folder, SCRATCH / "logs" / f"build.{step}")
        results[name].append(steps)
    found = rows(results)
    (asked.out / "builds.json").write_text(json.dumps(found, indent=1) + "\n")
    (asked.out / "builds.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
