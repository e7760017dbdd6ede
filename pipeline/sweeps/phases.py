"""Which jobs to start together, so that a stage that several points share runs once, though jobs run side by side."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import Problem, UserError
from pipeline.core.tables.stages import OF_A_POINT

Points = Mapping[str, Mapping[str, Any]]  # name -> resolved configuration
DVC_YAML = Path("dvc.yaml")
STAGES = tuple(name for name in OF_A_POINT if name != "bench")  # what jobs run; bench runs when all have ended


@dataclass(frozen=True)
class Phase:
    """Jobs that start together: one for each point, up to a stage."""

    stage: str
    points: tuple[str, ...]


def phases(points: Points, sections: Mapping[str, Sequence[str]], last: str = STAGES[-1]) -> list[Phase]:
    """Return the phases, each of which needs the ones before it.

    points: name -> resolved configuration. sections: stage -> the sections of the configuration that it reads. last:
    the stage up to which jobs build.

    Two points share a stage when they agree in all sections that it and the stages before it read; one of them runs it
    in an early phase, and the other finds it in DVC's cache. Points that share no stage have one phase.
    """
    shared = groups(points, sections)
    found: list[Phase] = []
    for stage, following in pairwise(STAGES[: STAGES.index(last) + 1]):
        first = {members[0] for members in shared[following]}
        several = [members[0] for members in shared[stage] if len(first.intersection(members)) > 1]
        if several:
            found.append(Phase(stage, tuple(several)))
    return [*found, Phase(last, tuple(members[0] for members in shared[last]))]


def groups(points: Points, sections: Mapping[str, Sequence[str]]) -> dict[str, list[list[str]]]:
    """Return for each stage the groups of points whose results are equal; see `phases`."""
    found: dict[str, dict[str, list[str]]] = {}
    read: list[str] = []
    for stage in STAGES:
        read += sections[stage]
        for name, configuration in points.items():
            values = json.dumps([configuration[section] for section in read], sort_keys=True, default=str)
            found.setdefault(stage, {}).setdefault(values, []).append(name)
    return {stage: list(members.values()) for stage, members in found.items()}


def sections_of_stages(path: Path = DVC_YAML) -> dict[str, list[str]]:
    """Read from dvc.yaml the sections of a point's configuration that each stage reads. Raises UserError without it."""
    if not path.exists():
        raise UserError(Problem(f"there is no {path.name}", str(path), "run from the root of the repository"))
    stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    read = {name: stages.get(name, {}).get("do", {}).get("params", []) for name in STAGES}
    return {name: [key for key in keys if isinstance(key, str)] for name, keys in read.items()}
