"""A sweep that is killed at random times, again and again: does the same command complete it, and to the same result?

    python -m benchmarks.interrupted [--times 10] [--launcher joblib] [--seed 0]

Each time a fresh repository starts the sweep, SIGKILL ends the front door and all that it started after a random share
of the time that an undisturbed sweep takes (every other time the front door alone, so that its jobs go on), and the
same command runs again. Writes benchmarks/interrupted.md.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.sweeps import repository

RESULTS = Path(__file__).parent / "interrupted.md"
SWEEP = ("-m", "experiment=tiny", "model.seed=0,1", "engine.threads=1,2")
MEASURED = {"bench.json", "latency.json", "lineage.json", "verify.json"}  # times differ; accuracy.json is compared


def result(folder: Path) -> dict[str, str]:
    """Return a hash of every artifact, the measurements' left out."""
    return {
        path.relative_to(folder / "artifacts").as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "artifacts").glob("*/**/*"))
        if path.is_file() and path.name not in MEASURED and "checkpoint" not in path.parts
    }


def start(folder: Path, launcher: str) -> subprocess.Popen[bytes]:
    """Start the sweep, in a session of its own."""
    command = [sys.executable, "-m", "pipeline", *SWEEP, f"hydra/launcher={launcher}"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill(build: subprocess.Popen[bytes], everything: bool) -> None:
    """End the front door, or all that it started as well."""
    started = psutil.Process(build.pid).children(recursive=True) if build.poll() is None else []
    build.kill()
    for process in started if everything else ():
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    build.wait()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.interrupted")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--launcher", default="joblib")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)  # noqa: S311 - when to kill is no secret
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        root = repository(Path(folder, "undisturbed"))
        begun = time.perf_counter()
        assert start(root, options.launcher).wait() == 0
        whole = time.perf_counter() - begun
        wanted = result(root)
        for number in range(options.times):
            root = repository(Path(folder, str(number)))
            build = start(root, options.launcher)
            share, everything = chance.random(), number % 2 == 0
            time.sleep(share * whole)
            kill(build, everything)
            begun = time.perf_counter()
            code = start(root, options.launcher).wait()
            left = [path for path in root.rglob("*.partial") if ".dvc" not in path.parts]
            row = (number, share, everything, code, result(root) == wanted, len(left), time.perf_counter() - begun)
            rows.append(row)
            print(json.dumps(row), flush=True)
    lines = [
        "# Killed sweeps\n",
        f"`python -m pipeline {' '.join(SWEEP)} hydra/launcher={options.launcher}`, killed by SIGKILL and run again.",
        f"Written by `python -m benchmarks.interrupted`. Undisturbed it takes {whole:.0f} s.\n",
        "| | killed after | what was killed | exit code of the second run | artifacts equal | files left half-written "
        "| second run |",
        "|--:|--:|---|--:|---|--:|--:|",
    ]
    lines += [
        f"| {n} | {share:.0%} | {'all processes' if everything else 'the front door'} | {code} "
        f"| {'yes' if equal else 'NO'} | {left} | {seconds:.0f} s |"
        for n, share, everything, code, equal, left, seconds in rows
    ]
    RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
