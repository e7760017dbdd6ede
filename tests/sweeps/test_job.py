"""What a launcher starts."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.sweeps.job import MARKER, Job, JobResult
from pipeline.sweeps.lineage import StageRun
from tests.support import quick

POINT = OmegaConf.create({"point": "good"})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a good and a bad point, and the file by which jobs know it."""
    folder = quick.make(tmp_path / "repository")
    (folder / MARKER).mkdir(parents=True)
    (folder / MARKER / "x.front").touch()
    return folder


def job(root: Path, marker: str = "x.front", point: str = "good") -> JobResult:
    """Run a job up to verify, as a launcher does."""
    points = {"good": ["experiment=tiny"], "bad": ["experiment=tiny"]}
    task = Job(str(root), str(MARKER / marker), points, "verify", cores=1)
    return JobResult.of(task(OmegaConf.create({"point": point})))


def test_it_builds_its_point_in_a_folder_of_its_own(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The repository has nothing but what DVC's cache has; each stage has a line."""
    done = job(root)
    assert done.problem is None
    assert [(run.stage, run.outcome) for run in done.runs] == [("verify", "ran")]
    assert not (root / "artifacts").exists()
    assert "verify@good: ran" in capsys.readouterr().out


def test_a_stage_that_fails_is_told(root: Path) -> None:
    """With the end of its output."""
    done = job(root, point="bad")
    assert [(run.stage, run.outcome, run.error) for run in done.runs] == [
        ("verify", "failed", "the point called bad fails"),
        ("bench", "skipped", None),
    ]
    assert "error: the point called bad fails" in done.tail


def test_on_another_host_it_needs_a_remote(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository's folder is not there: the job works in the launcher's copy, and has no way to hand over."""
    copy = quick.make(tmp_path / "copy")
    monkeypatch.chdir(copy)
    done = job(Path("/nowhere"))
    assert done.problem
    assert "does not share /nowhere, and no DVC remote is set" in done.problem


def test_on_another_host_it_hands_over(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the remote, which then has the run."""
    copy = quick.make(tmp_path / "copy", cached=True)
    store = tmp_path / "store"
    (copy / ".dvc/config").write_text(
        f"[core]\n    no_scm = true\n    remote = r\n['remote \"r\"']\n    url = {store}\n"
    )
    monkeypatch.chdir(copy)
    done = job(Path("/nowhere"))
    assert done.problem is None
    assert [path for path in store.rglob("*") if path.is_file()]


def test_what_goes_wrong_is_a_result(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no job ends the others: here a point that is not there."""
    done = JobResult.of(Job(str(root), str(MARKER / "x.front"), {}, "verify", None)(POINT))
    assert done.problem == "'good'"
    assert "KeyError" in done.tail[-1]


def test_a_result_comes_back_from_another_process() -> None:
    """It is made of Python's own types."""
    result = JobResult("p", [StageRun("wrap", "ran", ("first build",), 1.0, 2)], ["line"], None)
    values = result.as_values()
    assert JobResult.of(values) == result
    assert isinstance(values["runs"][0], dict)
