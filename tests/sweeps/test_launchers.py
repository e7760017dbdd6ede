"""What launchers are told, and what their jobs bring back."""

import importlib.util
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.sweeps import launchers
from pipeline.sweeps.job import MARKER, Job
from pipeline.sweeps.launchers import BASIC, Needs, overrides, shares_this_machine
from pipeline.sweeps.phases import Phase
from tests.support import quick

GB = 2**30


@pytest.mark.parametrize(
    ("needs", "at_once", "each"),
    [
        (Needs(GB, 64 * GB, 8, 12), 8, 1),  # a core each
        (Needs(GB, 64 * GB, 8, 2), 2, 4),  # few jobs have several
        (Needs(20 * GB, 64 * GB, 8, 12), 2, 4),  # memory is the limit, with what is spared
        (Needs(80 * GB, 64 * GB, 8, 12), 1, 8),  # the check of sizes has said so already
        (Needs(0, 64 * GB, 2, 12), 2, 1),  # sizes are not known
    ],
)
def test_jobs_at_once(needs: Needs, at_once: int, each: int) -> None:
    """Cores, memory and jobs each limit it."""
    assert (needs.at_once, needs.cores_each) == (at_once, each)


def test_each_launcher_is_told_in_its_own_keys() -> None:
    """What a user has given stays, and other launchers get nothing."""
    needs = Needs(3 * GB, 64 * GB, 8, 4)
    assert overrides("joblib", needs, []) == ["hydra.launcher.n_jobs=4"]
    assert overrides("joblib", needs, ["hydra.launcher.n_jobs=2"]) == []
    assert overrides("submitit_local", needs, []) == ["hydra.sweeper.max_batch_size=4"]
    assert "hydra.launcher.mem_gb=4" in overrides("submitit_slurm", needs, [])
    ray = overrides("ray", needs, ["+hydra.launcher.ray.remote.num_cpus=3"])
    here, memory = "hydra.launcher.ray.init.address=local", f"+hydra.launcher.ray.remote.memory={int(3 * GB * 1.15)}"
    assert ray == [here, memory]
    assert here not in overrides("ray", needs, ["hydra.launcher.ray.init.address=10.0.0.1:6379"])
    assert here not in overrides("ray_cluster", needs, [])
    assert "+hydra.launcher.ray.remote.num_cpus=2" in overrides("ray_cluster", needs, [])
    assert overrides("another", needs, []) == []
    unknown = Needs(0, 64 * GB, 8, 4)
    assert overrides("submitit_slurm", unknown, []) == ["hydra.launcher.cpus_per_task=2"]


def test_who_shares_this_machine() -> None:
    """Slurm and Ray divide cores themselves."""
    assert [shares_this_machine(name) for name in (BASIC, "joblib", "submitit_slurm", "ray")] == [
        False,
        True,
        False,
        False,
    ]


POINTS = {"good": ["experiment=tiny"], "bad": ["experiment=tiny"]}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository whose stages are done at once, as the working folder."""
    monkeypatch.chdir(quick.make(tmp_path / "repository"))


@pytest.mark.usefixtures("repository")
def test_the_launcher_that_is_chosen() -> None:
    """By an override, else by conf/config.yaml, else Hydra's own."""
    assert launchers.chosen([]) == "basic"
    assert launchers.chosen(["hydra/launcher=joblib", "hydra.launcher.n_jobs=3"]) == "joblib"
    if importlib.util.find_spec("ray"):
        assert launchers.chosen(["hydra/launcher=ray_cluster"]) == "ray_cluster"
    config = Path("conf/config.yaml")
    text = config.read_text(encoding="utf-8")
    config.write_text(
        text.replace("  - goal: null", "  - goal: null\n  - override hydra/launcher: joblib"),
        encoding="utf-8",
    )
    assert launchers.chosen([]) == "joblib"


@pytest.mark.usefixtures("repository")
def test_a_launcher_that_is_not_there() -> None:
    """It is named, with what to install."""
    with pytest.raises(UserError, match="hydra/launcher=nope"):
        launchers.chosen(["hydra/launcher=nope"])


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
@pytest.mark.usefixtures("repository")
def test_each_point_has_its_result(launcher: str) -> None:
    """A job that fails ends no other; nothing is left behind. tests/test_main.py has more launchers."""
    results = launchers.launch(Phase("verify", ("good", "bad")), POINTS, [f"hydra/launcher={launcher}"], None)
    assert [result.point for result in results] == ["good", "bad"]
    assert [result.runs[0].outcome for result in results] == ["ran", "failed"]
    assert list(MARKER.glob("*.front")) == []


@dataclass(frozen=True)
class Killed(Job):
    """A job whose process is killed, as by a batch system."""

    def __call__(self, composed: Any) -> dict[str, Any]:
        """End at once."""
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


@pytest.mark.usefixtures("repository")
def test_a_killed_job_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher's error is the user's to read, with what to do."""
    monkeypatch.setattr(launchers, "Job", Killed)
    given = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    with pytest.raises(UserError, match="the launcher ended before its jobs had") as caught:
        launchers.launch(Phase("verify", ("good", "bad")), POINTS, given, None)
    assert "run the same command again" in caught.value.problems[0].fix
    assert list(MARKER.glob("*.front")) == []
