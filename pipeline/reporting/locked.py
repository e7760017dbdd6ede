"""dvc.lock: with which parameters the stages of a point ran, so that a report of an earlier state shows as one."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.core import layout
from pipeline.core.tables.stages import OF_A_POINT

LOCK = Path("dvc.lock")
Lock = Mapping[str, Any]  # stage@point -> what DVC noted


def read(path: Path = LOCK) -> Lock:
    """The stages that DVC has noted; none where there is no lock, or it cannot be read."""
    try:
        loaded = yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # both are safe
    except (OSError, yaml.YAMLError):
        return {}
    stages = loaded.get("stages") if isinstance(loaded, dict) else None
    return stages if isinstance(stages, dict) else {}


def changes(lock: Lock, name: str, overrides: Sequence[str], params: Mapping[str, Any]) -> Iterator[str]:
    """What has changed since the point was built: its overrides, or keys of its params.yaml since a stage ran.

    params: what artifacts/<name>/params.yaml holds now.
    """
    composed = _params(lock, "compose", name).get(f"points.{name}")
    if composed is not None and list(composed) != list(overrides):
        yield f"its overrides were {' '.join(composed) or 'none'} when it was built"
    for stage in OF_A_POINT:
        used = {key: value for key, value in _params(lock, stage, name).items() if key in params}
        changed = sorted(key for key, value in used.items() if not _equal(value, params[key]))
        if changed:
            yield f"{' and '.join(changed)} changed since stage {stage} ran"


def _equal(one: Any, other: Any) -> bool:
    """Whether two values of YAML are the same: DVC writes 1.0e-07 as 1e-07, which YAML reads as text."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError):
        return False


def _params(lock: Lock, stage: str, name: str) -> dict[str, Any]:
    entry = lock.get(f"{stage}@{name}")
    noted = entry.get("params") if isinstance(entry, dict) else None
    return (noted.get(layout.PARAMS) if isinstance(noted, dict) else None) or {}
