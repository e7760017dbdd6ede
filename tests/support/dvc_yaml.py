"""What dvc.yaml declares for each stage."""

from typing import Any

import yaml

from tests.support.repository import ROOT

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def declared(stage: str) -> dict[str, Any]:
    """Return a stage's own description, out of its foreach."""
    description: dict[str, Any] = STAGES[stage].get("do", STAGES[stage])
    return description


def params(stage: str, file: str | None) -> set[str]:
    """Return the keys of a params file that a stage declares; None stands for params.yaml."""
    found: set[str] = set()
    for entry in declared(stage).get("params", []):
        if isinstance(entry, str) and file is None:
            found.add(entry)
        elif isinstance(entry, dict):
            found |= set(entry.get(file, []))
    return found
