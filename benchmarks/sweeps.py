"""A sweep of 2 x 3 x 2 tiny points under each launcher, beside builds of each point in a folder of its own.

    python -m benchmarks.sweeps [launcher ...]

Writes benchmarks/sweeps.md: wall time, how often each stage ran against the number of its distinct inputs, the same
command again, and again with one option changed; then how long a sweep takes of which nothing has changed.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.machine import cores
from pipeline.core.tables.stages import OF_A_POINT
from pipeline.sweeps import lineage

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "sweeps.md"
COPIED = (".dvcignore", "dvc.yaml", "conf", "pipeline")
LAUNCHERS = ("basic", "joblib", "submitit_local", "ray")
# random weights in 8 and 4 bits choose fewer of the same tokens than those that were trained
GRID = (
    "experiment=tiny",
    "verify.quality.top1=0.7",
    "model.seed=0,1",
    "precision=fp32,int8,int4",
    "engine.threads=1,2",
)
CHANGED = "verify.headroom=5"
POINTS = [
    [*GRID[:2], f"model.seed={seed}", f"precision={precision}", f"engine.threads={threads}"]
    for seed in (0, 1)
    for precision in ("fp32", "int8", "int4")
    for threads in (1, 2)
]
UNCHANGED = (1, 4, 20)
# int8's calibration reads the weights of fp32's graph: wrap, export and simplify follow from the seed alone
DISTINCT = {"wrap": 2, "export": 2, "simplify": 2, "quantize": 6, "engine": 12, "verify": 12, "bench": 12}


def repository(folder: Path) -> Path:
    """Return a copy of this repository without points."""
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    (folder / "params.yaml").write_text("points: {}\n")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm", "--force"], cwd=folder, check=True)
    shutil.copyfile(ROOT / ".dvc/config", folder / ".dvc/config")
    with (folder / ".dvc/config.local").open("w") as file:
        file.write("[core]\n    no_scm = true\n")
    return folder


def timed(folder: Path, *arguments: str) -> float:
    """Run the front door; return the seconds that it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - start


def ran(folder: Path) -> Counter[str]:
    """Count how often each stage ran in the last builds of all points."""
    runs = (run for point in (folder / "artifacts").glob("*/") for run in lineage.read(point))
    return Counter(run.stage for run in runs if run.outcome == "ran")


def sweep(launcher: str, folder: Path) -> tuple[str, ...]:
    """Run the sweep under a launcher; return a row of the table."""
    root = repository(folder)
    arguments = ("-m", *GRID, f"hydra/launcher={launcher}")
    seconds = timed(root, *arguments)
    counts = ran(root)
    again = timed(root, *arguments)
    changed = timed(root, *arguments, CHANGED)
    stages = ", ".join(f"{stage} {counts[stage]}/{DISTINCT[stage]}" for stage in OF_A_POINT)
    return launcher, f"{seconds:.0f} s", stages, f"{again:.1f} s", f"{changed:.0f} s"


def separately(folder: Path) -> float:
    """Build each point in a repository of its own, one after the other; return the seconds."""
    total = 0.0
    for number, overrides in enumerate(POINTS):
        root = repository(folder / str(number))
        total += timed(root, *overrides)
        shutil.rmtree(root)
    return total


def unchanged(folder: Path) -> Iterator[tuple[int, float]]:
    """Yield numbers of points, and the seconds of a sweep over so many once all are built."""
    root = repository(folder)
    for count in UNCHANGED:
        arguments = ("-m", "experiment=tiny", f"bench.repeats=range(1,{count + 1})")
        timed(root, *arguments)
        yield count, timed(root, *arguments)


def table(rows: Sequence[tuple[str, ...]], alone: float, same: Sequence[tuple[int, float]]) -> Iterator[str]:
    """Return the page."""
    yield "# Sweeps\n"
    yield f"{len(POINTS)} tiny points ({' '.join(GRID)}) on {cores()} cores."
    yield "Written by `python -m benchmarks.sweeps`.\n"
    yield "| launcher | time | of separate builds | stages that ran / distinct inputs | again | an option changed |"
    yield "|---|---|---|---|---|---|"
    for launcher, seconds, stages, again, changed in rows:
        share = float(seconds.split()[0]) / alone
        yield f"| {launcher} | {seconds} | {share:.2f} | {stages} | {again} | {changed} |"
    yield f"| separate builds | {alone:.0f} s | 1 | each stage {len(POINTS)} times | | |\n"
    yield f"The option that changes is `{CHANGED}`: every point is verified again, and nothing else runs.\n"
    yield "| points | a sweep of which nothing has changed |"
    yield "|--:|--:|"
    yield from (f"| {count} | {seconds:.1f} s |" for count, seconds in same)


def main() -> None:
    """Run the benchmark."""
    launchers = sys.argv[1:] or LAUNCHERS
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for launcher in launchers:
            rows.append(sweep(launcher, Path(folder, launcher)))
            print(*rows[-1], sep="  ", flush=True)
        alone = separately(Path(folder, "separate"))
        same = list(unchanged(Path(folder, "unchanged")))
    text = "\n".join(table(rows, alone, same)) + "\n"
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
