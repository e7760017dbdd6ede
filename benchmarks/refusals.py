"""How long a user waits for a refusal: from the command to its end, for types of models that cannot be built.

    python -m benchmarks.refusals

Stage wrap runs on each type's default configuration, as its own process, RUNS times. Writes refusals.md.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.in_process import composed, write_point

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).parent / "refusals.md"
TYPES = ("xlstm", "rwkv", "bert", "t5", "blip", "git", "xlm", "musicgen")
RUNS = 3
HEAD = f"""# Refusals

<!-- Made by `python -m benchmarks.refusals`. -->

Seconds from `python -m pipeline.wrap` to its end, and of processor time, median of {RUNS}; random weights, the type's
default configuration.

| type | seconds | processor | refusal |
|---|--:|--:|---|
"""


def refused(kind: str, point: Path) -> tuple[float, float, str]:
    """Run stage wrap once in a point's folder: seconds, those of processor time, and the first line of its error."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.wrap"]
    done = subprocess.run(command, cwd=point, env=environment, capture_output=True, text=True)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if done.returncode != 1 or not told:
        raise RuntimeError(f"{kind} was not refused: {done.stdout}{done.stderr}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used, told[0].removeprefix("error: ")


def main() -> None:
    """Run the command."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        point = Path(folder)
        params = composed(["experiment=tiny"])
        write_point(point, params)
        for kind in TYPES:
            params["model"] |= {"architecture": kind, "config": {}}
            (point / "params.yaml").write_text(json.dumps(params))  # YAML as well
            runs = [refused(kind, point) for _ in range(RUNS)]
            seconds, used = median(run[0] for run in runs), median(run[1] for run in runs)
            rows.append(f"| {kind} | {seconds:.1f} | {used:.1f} | {runs[0][2]} |\n")
            print(rows[-1], end="", flush=True)
    OUT.write_text(HEAD + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
