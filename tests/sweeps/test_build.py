"""Building points: jobs side by side, and the last step in the repository."""

from pathlib import Path

import pytest

from pipeline.sweeps import build, lineage
from pipeline.sweeps.dvc import Progress
from pipeline.sweeps.job import JobResult
from pipeline.sweeps.lineage import StageRun
from pipeline.sweeps.phases import STAGES
from tests.support import quick


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with a good and a bad point, as the working folder."""
    folder = quick.make(tmp_path / "repository", cached=True)
    (folder / "params.yaml").write_text("points: {bad: [experiment=tiny], good: [experiment=tiny]}\n")
    monkeypatch.chdir(folder)


def test_all_points_by_one_call() -> None:
    """The failed one is named with its reason, and each has its lineage."""
    result = build.collect(["bad", "good"], {}, Progress())
    assert result.failed == {"bad": "verify: the point called bad fails"}
    assert [(run.stage, run.outcome) for run in lineage.read(Path("artifacts/good"))] == [
        ("verify", "ran"),
        ("bench", "ran"),
    ]
    assert build.not_built(["bad", "good"]) == ["bad"]


def test_a_point_whose_job_failed_is_not_built_again() -> None:
    """It would take as long again, to the same end."""
    failed = JobResult("bad", [StageRun("verify", "failed", error="no")], ["no"])
    lost = JobResult("good", [], ["Traceback"], "KeyError")
    result = build.collect(["bad", "good"], {"bad": failed, "good": lost}, Progress())
    assert result.failed == {"bad": "verify: no", "good": "KeyError"}
    assert not Path("artifacts/good/accuracy.json").exists()
    assert [run.outcome for run in lineage.read(Path("artifacts/bad"))] == ["failed"]


def test_what_dvc_cannot_do_fails_all() -> None:
    """As when dvc.yaml is broken."""
    Path("dvc.yaml").write_text("stages: [", encoding="utf-8")
    result = build.collect(["bad", "good"], {}, Progress())
    assert all(why.startswith("DVC: ") for why in result.failed.values())
    assert result.failed.keys() == {"bad", "good"}


def test_jobs_side_by_side_then_the_repository(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What jobs have built is restored, and its lineage is the jobs'; the end of a failed job's output is shown."""
    monkeypatch.setattr(build, "sections_of_stages", lambda: {stage: ["model"] for stage in STAGES})
    wanted = {"bad": ["experiment=tiny"], "good": ["experiment=tiny"]}
    configurations = {name: {"model": name} for name in wanted}
    done = build.run_jobs(wanted, configurations, "joblib", ["hydra/launcher=joblib"], 0)
    build.show_tail(done)
    assert "error: the point called bad fails" in capsys.readouterr().err
    result = build.collect(list(wanted), done, Progress())
    assert result.failed.keys() == {"bad"}
    assert [run.outcome for run in lineage.read(Path("artifacts/good"))] == ["ran", "ran"]
