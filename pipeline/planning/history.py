"""How long stages took on this machine before, from what they noted of themselves (pipeline.core.stage)."""

import json
from collections.abc import Iterable, Mapping
from math import log
from pathlib import Path
from typing import Any

from pipeline.core import layout

Run = dict[str, Any]  # stage, point, seconds, peak, parameters, and the keys of SETTINGS


def read(path: Path = Path(layout.HISTORY)) -> list[Run]:
    """Read the runs noted so far, the oldest first; lines that hold no run are left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [run for run in map(_parsed, lines) if run is not None]


def _parsed(line: str) -> Run | None:
    try:
        run = json.loads(line)
        return run if run["seconds"] > 0 and run["parameters"] > 0 and isinstance(run["stage"], str) else None
    except (ValueError, TypeError, KeyError):
        return None


def seconds(runs: Iterable[Run], stage: str, parameters: int, settings: Mapping[str, Any]) -> float | None:
    """Estimate the seconds of a stage by its runs: of those that share most settings the one nearest in size, the
    latest of several, in proportion to the parameters; None without a run."""
    own = [run for run in runs if run["stage"] == stage]
    if not own:
        return None

    def distance(run: Run) -> tuple[int, float]:
        return sum(run.get(key) != value for key, value in settings.items()), abs(log(run["parameters"] / parameters))

    nearest = min(reversed(own), key=distance)
    return float(nearest["seconds"] * parameters / nearest["parameters"])
