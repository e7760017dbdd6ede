"""What a job has to itself."""

import fcntl
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from pipeline.sweeps.workspace import FOLDER, cache_folder, default_remote, own_cores, remove_leftovers, workspace
from tests.support.repository import ROOT, environment, make_whole

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that has models and a remote with relative paths."""
    root = make_whole(tmp_path / "repository", "points: {p: [experiment=tiny], other: []}\n")
    (root / "models").mkdir()
    (root / "models/file").write_text("weights")
    (root / ".dvc/config.local").write_text("[core]\n    remote = near\n['remote \"near\"']\n    url = ../../store\n")
    return root


def dvc(folder: Path, *arguments: str) -> str:
    """What DVC prints in a folder."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_holds_one_point_and_reads_the_same_cache(repository: Path) -> None:
    """DVC itself agrees: the cache and the remote are the repository's, and params.yaml has one point."""
    with workspace(repository, "p", ["experiment=tiny", "model.path='a, b'"]) as folder:
        assert folder == repository / FOLDER / "p"
        assert yaml.safe_load((folder / "params.yaml").read_text()) == {
            "points": {"p": ["experiment=tiny", "model.path='a, b'"]}
        }
        assert (folder / "models/file").read_text() == "weights"
        assert (folder / "pipeline/wrap.py").read_bytes() == (repository / "pipeline/wrap.py").read_bytes()
        assert not (folder / "pipeline").is_symlink()
        assert Path(dvc(folder, "cache", "dir")) == repository / ".dvc/cache" == cache_folder(repository)
        assert dvc(folder, "remote", "list").split()[:2] == ["near", str(repository.parent / "store")]
        assert dvc(folder, "config", "cache.type") == "reflink,copy"
        assert "wrap@p" in dvc(folder, "stage", "list")
    assert not folder.exists()
    assert default_remote(repository) == "near"


def test_a_failure_inside_removes_it(repository: Path) -> None:
    """As any other end does."""
    with pytest.raises(ZeroDivisionError), workspace(repository, "p", []) as folder:
        raise ZeroDivisionError
    assert not folder.exists()


def test_leftovers_of_killed_jobs_are_removed(repository: Path) -> None:
    """What a running job holds stays."""
    (repository / FOLDER / "killed").mkdir(parents=True)
    (repository / FOLDER / "killed.lock").touch()
    with workspace(repository, "p", []) as folder:
        remove_leftovers(repository)
        assert folder.exists()
        assert not (repository / FOLDER / "killed").exists()
        (folder / "file").touch()
    (repository / FOLDER / "p").mkdir()
    (repository / FOLDER / "p/file").touch()
    with workspace(repository, "p", []) as folder:
        assert not (folder / "file").exists()


def test_settings_of_a_plain_repository(tmp_path: Path) -> None:
    """No remote, and the cache where DVC has it by default or by a setting."""
    root = make_whole(tmp_path / "repository")
    assert default_remote(root) is None
    (root / ".dvc/config.local").write_text("[cache]\n    dir = /somewhere/else\n")
    assert cache_folder(root) == Path("/somewhere/else")


@pytest.mark.skipif(not CORES, reason="processes are kept to cores on Linux only")
def test_a_job_has_its_cores_and_gives_them_back(tmp_path: Path) -> None:
    """One job has the first core, the next one another, if there is one; afterwards all are free again."""
    with own_cores(1, tmp_path):
        assert sorted(os.sched_getaffinity(0)) == CORES[:1]
    assert sorted(os.sched_getaffinity(0)) == CORES
    with own_cores(len(CORES), tmp_path):
        assert sorted(os.sched_getaffinity(0)) == CORES


@pytest.mark.skipif(not CORES, reason="processes are kept to cores on Linux only")
def test_where_all_are_taken_a_job_keeps_what_it_has(tmp_path: Path) -> None:
    """As when jobs of a killed sweep still run."""
    code = (
        "import os, pathlib, sys; from pipeline.sweeps.workspace import own_cores\n"
        "with own_cores(1, pathlib.Path(sys.argv[1])): print(len(os.sched_getaffinity(0)))"
    )
    with ExitStack() as taken:
        for slot in range(len(CORES)):
            lock = taken.enter_context((tmp_path / f"cores{slot}").open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(CORES)
