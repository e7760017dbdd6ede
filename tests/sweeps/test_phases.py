"""Which jobs start together."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.sweeps.phases import STAGES, Phase, groups, phases, sections_of_stages
from tests.support.repository import ROOT

SECTIONS = {
    "wrap": ["model"],
    "export": [],
    "simplify": [],
    "quantize": ["quantize"],
    "engine": ["engine"],
    "verify": [],
}


def point(model: int, quantize: int = 0, engine: int = 0) -> dict[str, dict[str, int]]:
    """A configuration of three sections."""
    return {"model": {"seed": model}, "quantize": {"bits": quantize}, "engine": {"threads": engine}}


def test_points_that_share_nothing_start_together() -> None:
    """One phase is enough."""
    assert phases({"a": point(0), "b": point(1)}, SECTIONS) == [Phase("verify", ("a", "b"))]


def test_a_shared_stage_runs_first() -> None:
    """One point of each group runs what its group shares, and then all go on."""
    points = {"a": point(0), "b": point(0, 8), "c": point(1), "d": point(0, 8, 2)}
    assert phases(points, SECTIONS) == [
        Phase("simplify", ("a",)),
        Phase("quantize", ("b",)),
        Phase("verify", ("a", "b", "c", "d")),
    ]


def test_equal_points_are_built_once() -> None:
    """Those that differ in what bench reads alone need one job."""
    assert phases({"a": point(0), "b": point(0)}, SECTIONS) == [Phase("verify", ("a",))]


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=12))
def test_no_stage_runs_twice(keys: list[tuple[int, int, int]]) -> None:
    """However the jobs of a phase are interleaved: none of its stages that were not run before is shared."""
    points = {f"p{number}": point(*key) for number, key in enumerate(keys)}
    members = {
        stage: {name: tuple(group) for group in found for name in group}
        for stage, found in groups(points, SECTIONS).items()
    }
    done: set[tuple[str, tuple[str, ...]]] = set()
    for phase in phases(points, SECTIONS):
        started: set[tuple[str, tuple[str, ...]]] = set()
        for name in phase.points:
            own = {(stage, members[stage][name]) for stage in STAGES[: STAGES.index(phase.stage) + 1]} - done
            assert not own & started, f"{name} runs in {phase} what another runs"
            started |= own
        done |= started
    assert done == {(stage, group) for stage in STAGES for group in members[stage].values()}


def test_sections_are_those_of_dvc_yaml() -> None:
    """Every stage has its sections, and a stage that is not declared has none."""
    found = sections_of_stages(ROOT / "dvc.yaml")
    assert found["wrap"] == ["model", "axes", "cache", "precision", "wrap"]
    assert all(found[stage] for stage in STAGES)


def test_a_stage_that_is_missing(tmp_path: Path) -> None:
    """It reads nothing."""
    path = tmp_path / "dvc.yaml"
    path.write_text(yaml.safe_dump({"stages": {"verify": {"do": {"cmd": "x"}}}}))
    assert sections_of_stages(path) == {stage: [] for stage in STAGES}


def test_without_dvc_yaml(tmp_path: Path) -> None:
    """The mistake is where the command was run."""
    with pytest.raises(UserError, match=r"there is no dvc\.yaml"):
        sections_of_stages(tmp_path / "dvc.yaml")
