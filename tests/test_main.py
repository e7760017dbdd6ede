"""The front door, as a process of its own: python -m pipeline. DVC's part is cut short by a dvc.yaml of the test."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.config import points
from pipeline.sweeps import lineage
from tests.support import quick
from tests.support.repository import PARAMS, ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with those stages. Not to be changed."""
    return quick.make(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of it, as the working folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the front door in the working folder, with a PATH that has no python of ours first."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "pipeline", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def files() -> set[str]:
    """All files in the working folder outside .dvc."""
    return {str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in (".dvc", "conf")}


def test_mistakes_end_it_with_1_before_anything_happens() -> None:
    """Every mistake is shown, without a traceback, and no file is written."""
    before = files()
    done = run("model=nope", "cache.size=0", "point=a.b")
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 3
    assert done.stdout == ""
    assert files() == before
    assert points.FILE.read_text() == PARAMS


def test_a_sweep_is_checked_before_its_first_job() -> None:
    """The mistakes of all jobs come together, and one that all jobs share comes once."""
    done = run("-m", "experiment=tiny", "cache.size=0,64,32,nope", "export.opset=3", "bench.repeats=1")
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: cache.size is 0",
        "error: export.opset=3 is not supported",
        "error: cache.size cannot be 'nope'",
    ]
    assert points.FILE.read_text() == PARAMS


def test_two_jobs_with_one_name_are_refused() -> None:
    """A name given to a sweep would make its jobs overwrite each other."""
    done = run("-m", "experiment=tiny", "cache.size=64,128", "point=same")
    assert done.returncode == 1
    assert "two jobs would both build the point same" in done.stderr


def test_a_taken_name_is_refused() -> None:
    """A derived name that stands for something else is no silent redefinition."""
    points.record("tiny", ["model=tiny_llama"])
    done = run("experiment=tiny")
    assert done.returncode == 1
    assert "the point tiny exists, with other overrides: model=tiny_llama" in done.stderr


@pytest.mark.parametrize("flag", ["-cd", "--config-name=x", "--nope"])
def test_flags_that_lead_past_conf_are_refused(flag: str) -> None:
    """DVC composes from conf/ again, so Hydra's flags for other folders would not last."""
    done = run(flag, "experiment=tiny")
    assert done.returncode == 1
    assert "cannot be used here" in done.stderr


def test_help_and_cfg_show_and_build_nothing() -> None:
    """--help lists the keys and the groups, --cfg the configuration; neither builds."""
    before = files()
    done = run("--help")
    assert done.returncode == 0
    assert "precision: bf16, fp16, fp32" in done.stdout
    assert "cache.size  Slots per row" in done.stdout
    assert "initializer_range: 0.2" in run("--cfg", "job", "experiment=tiny").stdout
    assert files() == before


def test_a_job_records_its_point_and_builds_it() -> None:
    """One run adds the point, builds it with this very interpreter, and sums up; nothing else is left behind."""
    before = files()
    done = run("experiment=tiny")
    assert done.returncode == 0, done.stderr
    heading, line = done.stdout.splitlines()[-2:]
    assert heading.split("  ")[0] == "point"
    assert line.split() == ["tiny", "verified", "-", "-", "12.5", "tok/s", "-", "-"]
    assert points.read()["tiny"] == ["experiment=tiny"]
    made = {f"artifacts/tiny/{name}" for name in ("python", "accuracy.json", "bench.json", "lineage.json")}
    assert files() - before == made | {"dvc.lock"}
    assert Path("artifacts/tiny/python").read_text(encoding="utf-8") == sys.executable


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_a_failed_job_does_not_end_its_sweep(launcher: str) -> None:
    """The other jobs are built, the failed one is named with the reason, and the exit code is 1."""
    if launcher == "ray" and not importlib.util.find_spec("ray"):
        pytest.skip("the extra ray is not installed: pip install -e '.[ray]'")
    points.record("bad", ["experiment=tiny", "precision=fp32"])
    done = run("-m", "experiment=tiny", "precision=fp32,fp16", "check_size=false", f"hydra/launcher={launcher}")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("point  "))
    bad, good, why = lines[start + 1 : start + 4]
    assert lines[-1].startswith("artifacts/report.html: 2 points")
    assert bad.split()[:2] == ["bad", "FAILED"]
    assert good.split()[:2] == ["tiny-fp16", "verified"]
    assert why == "bad: failed in verify: the point called bad fails"
    assert ("verify", "failed") in {(run.stage, run.outcome) for run in lineage.read(Path("artifacts/bad"))}


def test_builds_take_turns() -> None:
    """While another holds the build lock, a build waits."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with points.locked("kvforge.lock"):
        job = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "experiment=tiny", "check_size=false"], env=environment
        )
        deadline = time.monotonic() + 300
        while not waits_for_a_lock(job.pid):
            assert job.poll() is None, "the job did not wait"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "tiny" in points.read()
        assert not Path("artifacts").exists()
    assert job.wait(300) == 0
    assert Path("artifacts").exists()


def waits_for_a_lock(pid: int) -> bool:
    """Whether the kernel lists the process among those that wait for a lock on a whole file."""
    return re.search(rf"-> FLOCK .* {pid} ", Path("/proc/locks").read_text(encoding="utf-8")) is not None
