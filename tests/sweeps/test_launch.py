"""Launchers of Hydra."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.sweeps import launch
from pipeline.sweeps.job import MARKER, Job
from pipeline.sweeps.phases import Phase
from tests.support import quick

POINTS = {"good": ["experiment=tiny"], "bad": ["experiment=tiny"]}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository whose stages are done at once, as the working folder."""
    monkeypatch.chdir(quick.make(tmp_path / "repository"))


def test_the_launcher_that_is_chosen() -> None:
    """By an override, else by conf/config.yaml, else Hydra's own."""
    assert launch.chosen([]) == "basic"
    assert launch.chosen(["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]) == "joblib"
    config = Path("conf/config.yaml")
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("  - experiment: null", "  - experiment: null\n  - override hydra/launcher: joblib"),
        encoding="utf-8",
    )
    assert launch.chosen([]) == "joblib"


def test_a_launcher_that_is_not_there() -> None:
    """It is named, with what to install."""
    with pytest.raises(UserError, match="hydra/launcher=nope"):
        launch.chosen(["hydra/launcher=nope"])


@pytest.mark.parametrize("names", [("good",), ("good", "bad")])
def test_each_point_has_its_result(names: tuple[str, ...]) -> None:
    """One job or several; nothing is left in the folder of markers."""
    results = launch.launch(Phase("verify", names), POINTS, ["hydra/launcher=basic"], None)
    assert [result.point for result in results] == list(names)
    assert [result.runs[0].outcome for result in results] == ["ran", "failed"][: len(names)]
    assert list(MARKER.glob("*.front")) == []


@dataclass(frozen=True)
class Killed(Job):
    """A job whose process is killed, as by a batch system."""

    def __call__(self, composed: Any) -> dict[str, Any]:
        """End at once."""
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


def test_a_killed_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's error is the user's to read, with what to do."""
    monkeypatch.setattr(launch, "Job", Killed)
    given = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    with pytest.raises(UserError, match="the launcher ended before its jobs had") as caught:
        launch.launch(Phase("verify", ("good", "bad")), POINTS, given, None)
    assert "run the same command again" in caught.value.problems[0].fix
    assert list(MARKER.glob("*.front")) == []
