"""The stages of a point: what became of each, what it took, and what pipeline.plan says that it takes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.stage import SETTINGS
from pipeline.core.tables.stages import NAMES, OF_A_POINT, STAGES
from pipeline.planning import history
from pipeline.planning.estimate import Cost
from pipeline.planning.history import Run
from pipeline.reporting.records import Stage

OUTPUTS = {stage.name: stage.outputs for stage in STAGES}


def stages(
    point: Path, lineage: Mapping[str, Any], runs: Sequence[Run], costs: Mapping[str, Cost]
) -> tuple[Stage, ...]:
    """Each stage of the point in the folder `point`.

    lineage: lineage.json, empty where there is none. runs: of history.jsonl. costs: by stage, empty where there is no
    plan.
    """
    noted = {entry.get("stage"): entry for entry in lineage.get("stages", ()) if isinstance(entry, dict)}
    names = [name for name in NAMES if name in OF_A_POINT or name in noted]
    return tuple(_stage(name, point, noted.get(name, {}), runs, costs.get(name)) for name in names)


def _stage(name: str, point: Path, noted: Mapping[str, Any], runs: Sequence[Run], cost: Cost | None) -> Stage:
    own = [i for i, run in enumerate(runs) if (run["stage"], run.get("point")) == (name, point.name)]
    outcome = str(noted.get("outcome") or "")
    # what came from DVC's run cache was run for another point or elsewhere: an own run is of another state
    last = runs[own[-1]] if own and outcome != "restored" else {}
    planned = None
    if last:
        settings = {key: last.get(key) for key in SETTINGS}
        planned = history.seconds(runs[: own[-1]], name, last["parameters"], settings)
    return Stage(
        name,
        outcome=outcome,
        why=tuple(map(str, noted.get("why") or ())),
        error=str(noted.get("error") or ""),
        seconds=noted.get("seconds") or last.get("seconds"),
        peak=noted.get("peak") or last.get("peak"),
        disk=written(point, name),
        planned_seconds=planned,
        planned_peak=cost.memory if cost else None,
        planned_disk=cost.disk if cost else None,
    )


def written(point: Path, stage: str) -> int | None:
    """The bytes of a stage's files in the point's folder; None where one is missing, or it writes none there."""
    paths = [point / name for name in OUTPUTS[stage]]
    if stage not in OF_A_POINT or not all(path.exists() for path in paths):
        return None
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)


def first_missing(point: Path) -> str | None:
    """The first stage that has not left all its files; None where every one has."""
    return next((name for name in OF_A_POINT if not all(os.path.lexists(point / out) for out in OUTPUTS[name])), None)
