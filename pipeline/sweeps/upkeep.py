"""Points that have been asked for: what they are, their names, and what they no longer need of the disk."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import points
from pipeline.core.errors import Problem, UserError
from pipeline.sweeps import dvc, lineage
from pipeline.sweeps.build import collect, not_built
from pipeline.sweeps.dvc import Progress
from pipeline.sweeps.expect import duration
from pipeline.sweeps.summary import aligned

GC = (sys.executable, "-m", "dvc", "gc", "--workspace", "--force")
REMOVING = re.compile(r"^Removing (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Garbage:
    """What no point needs: folders in artifacts/, and files in DVC's cache, with their bytes."""

    folders: tuple[Path, ...]
    folder_bytes: int
    cached: int
    cached_bytes: int


def table(names: Sequence[str]) -> Iterator[str]:
    """Return a line for each point: its name, whether DVC has work for it, its size, its overrides."""
    known = points.read()
    work = set(not_built(names))
    rows = [("point", "state", "size", "overrides")]
    for name in names:
        folder = points.ARTIFACTS / name
        state = _state(name, work)
        rows.append((name, state, megabytes(size(folder)), " ".join(known[name]) or "none: the defaults"))
    yield from aligned(rows)


def details(name: str) -> Iterator[str]:
    """Return what there is to say about a point: its overrides, and how each of its artifacts came to be."""
    known = points.read()
    folder = points.ARTIFACTS / name
    yield f"{name}: {_state(name, set(not_built([name])))}, {megabytes(size(folder))} in {folder}"
    yield f"overrides: {' '.join(known[name]) or 'none: the defaults'}"
    for run in lineage.read(folder):
        cost = f", {duration(run.seconds)}" if run.seconds is not None else ""
        why = f" ({'; '.join(run.why)})" if run.why else ""
        error = f": {run.error}" if run.error else ""
        yield f"  {run.stage:<9} {run.outcome} {run.when} on {run.host}{cost}{why}{error}"


def rename(old: str, new: str, progress: Progress) -> None:
    """Give a point another name. DVC finds its artifacts in its run cache and builds none. Raises UserError when the
    new name cannot be taken."""
    known = points.read()
    if not points.NAME.fullmatch(new):
        raise UserError(Problem(f"a point cannot be called {new!r}", "NEW", "use letters, digits, _ and -"))
    if new in known:
        raise UserError(Problem(f"the point {new} exists", "NEW", "take another name"))
    built = (points.ARTIFACTS / old).exists()
    points.rename(old, new)
    if built:
        target = points.ARTIFACTS / new
        shutil.rmtree(target, ignore_errors=True)  # of a former point of this name
        (points.ARTIFACTS / old).rename(target)
        failed = collect([new], {}, progress).failed
        if failed:
            raise UserError(Problem(failed[new], str(target), f"fix it, then: dvc repro verify@{new} bench@{new}"))


def garbage() -> Garbage:
    """Find what no point of params.yaml needs."""
    known = points.read()
    folders = tuple(sorted(p for p in points.ARTIFACTS.glob("*/") if p.name not in known))
    done = subprocess.run([*GC, "--dry"], env=dvc.environment(), capture_output=True, text=True)
    if done.returncode:
        raise UserError(Problem(f"dvc gc: {done.stderr.strip()}", ".dvc/cache", "run dvc gc --workspace --dry"))
    cached = [Path(path) for path in REMOVING.findall(done.stdout)]
    return Garbage(folders, sum(map(size, folders)), len(cached), sum(map(size, cached)))


def remove(found: Garbage) -> None:
    """Remove it."""
    for folder in found.folders:
        shutil.rmtree(folder)
    if found.cached:
        subprocess.run([*GC, "--quiet"], env=dvc.environment(), check=True)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder, without those that links lead to."""
    if path.is_file():
        return path.stat().st_size
    return sum(
        Path(folder, name).lstat().st_size for folder, _, names in os.walk(path, followlinks=False) for name in names
    )


def megabytes(count: int) -> str:
    """Return a size for people."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"


def _state(name: str, work: set[str]) -> str:
    """The state of a point. work: the points that DVC has work for, all of them where it cannot tell."""
    failed = next((run for run in lineage.read(points.ARTIFACTS / name) if run.outcome == "failed"), None)
    if failed and name in work:
        return f"failed in {failed.stage}"
    if not (points.ARTIFACTS / name).exists():
        return "not built"
    return "to build" if name in work else "built"
