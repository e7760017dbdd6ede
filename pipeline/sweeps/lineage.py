"""What became of each stage of a point, when and where: artifacts/<point>/lineage.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from platform import node
from typing import Any, Literal

from pipeline.core import layout
from pipeline.core.files import write_json
from pipeline.core.tables.stages import NAMES

# restored: from DVC's run cache, which another point, job or machine has filled; skipped: a stage before it failed
Outcome = Literal["ran", "restored", "unchanged", "failed", "skipped"]


@dataclass(frozen=True)
class StageRun:
    """One stage of one point in one build. why: what has changed, as DVC tells it. seconds and peak (bytes of memory):
    of a stage that ran. error: the first line of what went wrong."""

    stage: str
    outcome: Outcome
    why: tuple[str, ...] = ()
    seconds: float | None = None
    peak: int | None = None
    error: str | None = None
    host: str = field(default_factory=node)
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "StageRun":
        """Make one of what `asdict` or a JSON file gave."""
        return cls(**{**values, "why": tuple(values["why"])})


def read(folder: Path) -> list[StageRun]:
    """Read a point's lineage; an empty list where there is none."""
    path = folder / layout.LINEAGE
    if not path.exists():
        return []
    return [StageRun.of(values) for values in json.loads(path.read_text(encoding="utf-8"))["stages"]]


def merged(former: Iterable[StageRun], job: Iterable[StageRun], collected: Iterable[StageRun]) -> list[StageRun]:
    """Return what is known of each stage after a build, in the order of the stages.

    A stage that was unchanged keeps its former entry, unless that is of a failure, which `dvc repro` has mended since.
    One that was restored here because a job had run it has that
    job's entry, with time, memory and host.
    """
    runs = {run.stage: run for run in former}
    by_job = {run.stage: run for run in job}
    for run in (*by_job.values(), *collected):
        if run.outcome == "unchanged" and run.stage in runs and runs[run.stage].outcome not in {"failed", "skipped"}:
            continue
        if run.outcome == "restored" and run.stage in by_job:
            runs[run.stage] = replace(by_job[run.stage], why=by_job[run.stage].why or run.why)
        else:
            runs[run.stage] = run
    return sorted(runs.values(), key=lambda run: NAMES.index(run.stage))


def write(folder: Path, runs: Iterable[StageRun]) -> None:
    """Write a point's lineage."""
    runs = list(runs)
    folder.mkdir(parents=True, exist_ok=True)
    last = max(runs, key=lambda run: run.when)
    write_json(folder / layout.LINEAGE, {"when": last.when, "host": last.host, "stages": [asdict(run) for run in runs]})
