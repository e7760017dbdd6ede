"""What was built in one clone and is taken by another, through a DVC remote, for real."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.tables.stages import OF_A_POINT, downstream
from pipeline.runtime.open import open_engine
from pipeline.sweeps.lineage import read
from tests.support.fakes import fake_nvidia_smi
from tests.support.repository import built, make_whole, run

pytestmark = pytest.mark.slow

BUILD = (sys.executable, "-m", "pipeline", "experiment=tiny", "point=tiny", "check_size=false")


def dvc(folder: Path, *arguments: str) -> None:
    """Run DVC."""
    done = run(folder, sys.executable, "-m", "dvc", *arguments)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a built repository has pushed to, as its DVC remote."""
    store = tmp_path_factory.mktemp("store")
    folder = built().copy(tmp_path_factory.mktemp("first") / "repository")
    dvc(folder, "remote", "add", "--default", "store", str(store))
    dvc(folder, "push", "--run-cache")
    return store


def another(folder: Path, store: Path) -> Path:
    """A fresh clone with that remote; the path of the remote is relative, as a team's mounted folder may be."""
    clone = make_whole(folder / "repository")
    shutil.copytree(store, folder / "store")
    dvc(clone, "remote", "add", "--default", "store", "../store")
    return clone


def outcomes(clone: Path) -> dict[str, str]:
    """What became of each stage."""
    return {run.stage: run.outcome for run in read(clone / "artifacts/tiny")}


def test_a_fresh_clone_builds_nothing(shared: Path, tmp_path: Path) -> None:
    """All stages come from the remote, the measurements of an equal machine included; the bytes are the same."""
    clone = another(tmp_path, shared)
    done = run(clone, *BUILD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcomes(clone) == {"compose": "ran"} | dict.fromkeys(OF_A_POINT, "restored")
    for name in ("engine/model.onnx", "accuracy.json"):
        assert (clone / "artifacts/tiny" / name).read_bytes() == (built().folder / "artifacts/tiny" / name).read_bytes()


def test_an_engine_of_another_gpu_is_not_taken(shared: Path, tmp_path: Path) -> None:
    """Where another GPU is, the engine and what follows from it are made anew; what it is made from is not."""
    clone = another(tmp_path, shared)
    smi = fake_nvidia_smi(tmp_path / "bin", "echo 'NVIDIA H200, 9.0'")
    done = run(clone, *BUILD, PATH=f"{Path(sys.executable).parent}:{smi}:/usr/bin:/bin")
    assert done.returncode == 0, done.stdout + done.stderr
    new = downstream("engine")
    assert {stage for stage, outcome in outcomes(clone).items() if outcome == "ran"} == {"compose", *new}
    assert {stage for stage, outcome in outcomes(clone).items() if outcome == "restored"} == set(OF_A_POINT) - set(new)


def test_dvc_get_gives_an_engine_that_runs(shared: Path, tmp_path: Path) -> None:
    """One folder out of a repository whose artifacts are in the remote alone."""
    folder = built().copy(tmp_path / "repository")
    dvc(folder, "remote", "add", "--default", "store", str(shared))
    shutil.rmtree(folder / ".dvc/cache")
    shutil.rmtree(folder / "artifacts/tiny/engine")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["git", "add", "."], ["git", *author, "commit", "--quiet", "-m", "built"]):
        assert run(folder, *command).returncode == 0
    dvc(tmp_path, "get", str(folder), "artifacts/tiny/engine", "--out", str(tmp_path / "engine"))
    logits = open_engine(tmp_path / "engine").session(1).step([[1, 2, 3]])
    assert np.isfinite(logits).all()
