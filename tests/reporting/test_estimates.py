"""estimates: what pipeline.plan says of composed points."""

from pathlib import Path

import pytest
import yaml

from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.reporting import estimates
from pipeline.reporting.estimates import Estimates, NoEstimates


def test_every_stage_has_a_cost(proven: Path) -> None:
    """That of a plan."""
    costs, why = Estimates().of(proven / layout.PARAMS)
    assert why == ""
    assert list(costs) == ["wrap", "export", "simplify", "quantize", "engine", "verify", "bench"]
    assert all(cost.memory > 0 for cost in costs.values())


def test_a_model_is_looked_at_once(proven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of equal model share its sizes; one whose sizes are not known says why, for each of its points."""
    asked = []

    def unknown(model: object) -> None:
        asked.append(model)
        raise UserError(Problem("its sizes are not known", "model", "build it"))

    monkeypatch.setattr(estimates, "model_sizes", unknown)
    planner, other = Estimates(), tmp_path / layout.PARAMS
    params = yaml.safe_load((proven / layout.PARAMS).read_text())
    params["cache"]["size"] *= 2
    other.write_text(yaml.safe_dump(params))
    for path in (proven / layout.PARAMS, other):
        assert planner.of(path) == ({}, "its sizes are not known")
    assert len(asked) == 1


def test_no_estimates() -> None:
    """The reason names the flag."""
    assert NoEstimates().of(Path()) == ({}, "not asked for (--no-plan)")
