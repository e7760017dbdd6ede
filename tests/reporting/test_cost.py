"""cost: what became of the stages, what they took, and what the plan says."""

import json
from pathlib import Path
from typing import Any

from pipeline.core import layout
from pipeline.planning.estimate import Cost
from pipeline.reporting import cost
from pipeline.reporting.records import Stage
from tests.support import reports


def run(stage: str, point: str, seconds: float, parameters: int = 100) -> dict[str, Any]:
    """A line of history.jsonl."""
    return {"stage": stage, "point": point, "seconds": seconds, "peak": 7, "parameters": parameters}


def by_name(point: Path, lineage: dict[str, Any], runs: list[dict[str, Any]], **costs: Cost) -> dict[str, Stage]:
    """The stages of a point."""
    return {stage.name: stage for stage in cost.stages(point, lineage, runs, costs)}


def test_without_lineage_there_is_history(proven: Path) -> None:
    """The last own run counts; its time is planned by the runs before it, in proportion to the size."""
    runs = [run("wrap", "big", 40.0, 200), run("wrap", "tiny", 9.0), run("wrap", "tiny", 11.0), run("wrap", "x", 1.0)]
    found = by_name(proven, {}, runs, wrap=Cost(((5, 1),), disk=3))
    assert list(found) == ["wrap", "export", "simplify", "quantize", "engine", "verify", "bench"]
    wrap = found["wrap"]
    assert (wrap.seconds, wrap.peak, wrap.outcome) == (11.0, 7, "")
    assert (wrap.planned_seconds, wrap.planned_peak, wrap.planned_disk) == (9.0, 6, 3)
    assert wrap.disk == sum(file.stat().st_size for file in (proven / layout.WRAPPED).iterdir())
    assert found["export"].seconds is found["export"].planned_peak is None


def test_the_first_run_had_no_plan(proven: Path) -> None:
    """Nothing is planned by the run itself."""
    assert by_name(proven, {}, [run("wrap", "tiny", 9.0)])["wrap"].planned_seconds is None


def test_lineage_says_what_happened(proven: Path, tmp_path: Path) -> None:
    """And what it took; a stage that was restored did not take what an earlier run did."""
    point = reports.copy(proven, tmp_path / "tiny")
    reports.lineage(point, wrap="unchanged", engine="ran", verify="failed")
    noted = json.loads((point / layout.LINEAGE).read_text())
    runs = [run(stage, "tiny", 9.0) for stage in ("wrap", "export", "engine")]
    found = by_name(point, noted, runs)
    assert next(iter(found)) == "compose"
    assert (found["engine"].seconds, found["engine"].why) == (12.5, tuple(reports.REASONS))
    assert (found["wrap"].outcome, found["wrap"].seconds) == ("unchanged", 9.0)
    assert (found["export"].outcome, found["export"].seconds) == ("restored", None)
    assert found["verify"].error == "error: out of patience"


def test_lineage_of_another_form_is_no_error(proven: Path) -> None:
    """Only what can be read is shown."""
    found = by_name(proven, {"stages": ["wrap", {"stage": "wrap"}, {"outcome": "ran"}]}, [])
    assert found["wrap"].outcome == ""


def test_the_first_stage_that_is_missing(proven: Path, tmp_path: Path) -> None:
    """By its files; links that lead nowhere are there."""
    point = reports.copy(proven, tmp_path / "tiny")
    assert cost.first_missing(point) is None
    (point / layout.CHECKPOINT).unlink()
    (point / layout.CHECKPOINT).symlink_to("gone")
    (point / layout.BENCH).unlink()
    assert cost.first_missing(point) == "bench"
    (point / layout.SIMPLIFIED / layout.MODEL).unlink()
    (point / layout.SIMPLIFIED / layout.CHANGES).unlink()
    (point / layout.SIMPLIFIED).rmdir()
    assert cost.first_missing(point) == "simplify"
    assert cost.written(point, "simplify") is None
    assert cost.written(point, "compose") is None
