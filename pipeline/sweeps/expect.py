"""What is left of a build: the stages to come, and about how long they take."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.tables.stages import NAMES, OF_A_POINT
from pipeline.sweeps.phases import STAGES, groups

Key = tuple[str, str]  # stage, point


def expected(
    plans: Sequence[Mapping[str, Any]],
    configurations: Mapping[str, Mapping[str, Any]],
    sections: Mapping[str, Sequence[str]],
) -> dict[Key, float]:
    """Return the seconds that each stage of each point is expected to take, where an earlier run tells; 0 for one that
    comes from DVC's cache, as another point has it too.

    plans: of `python -m pipeline.plan --json`, for points that are new. configurations and sections: of
    `pipeline.sweeps.phases`.
    """
    shared = groups(configurations, sections)
    found: dict[Key, float] = {}
    for plan in plans:
        for stage in OF_A_POINT:
            point, seconds = plan["point"], plan["stages"][stage]["seconds"]
            if stage in STAGES and any(point in members[1:] for members in shared[stage]):
                found[stage, point] = 0.0
            elif seconds is not None:
                found[stage, point] = float(seconds)
    return found


def left(names: Sequence[str], done: set[Key]) -> list[Key]:
    """Return the stages of these points that are not done, in the order in which DVC comes to them."""
    keys = [(NAMES[0], ""), *((stage, name) for stage in NAMES[1:] for name in names)]
    return [key for key in keys if key not in done]


def duration(seconds: float) -> str:
    """Return a duration for people: `40 s`, `12 min`, `3 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
