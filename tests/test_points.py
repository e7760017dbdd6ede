"""The command that lists, shows, renames and prunes points, as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import points
from tests.support import quick
from tests.support.repository import ROOT


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with two points, as the working folder."""
    folder = quick.make(tmp_path / "repository", cached=True)
    (folder / "params.yaml").write_text("points: {good: [experiment=tiny], new: []}\n")
    monkeypatch.chdir(folder)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.points", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_mistakes_are_problems() -> None:
    """An unknown action, unknown points, and too few names."""
    assert "there is no action 'lst'" in run("lst").stderr
    assert run("list", "a", "b").stderr.count("there is no point") == 2
    done = run("rename", "good")
    assert done.returncode == 1
    assert "give OLD NEW" in done.stderr


def test_list_is_the_default() -> None:
    """It shows all points, or those that are named."""
    assert [line.split()[0] for line in run().stdout.splitlines()] == ["point", "good", "new"]
    assert [line.split()[0] for line in run("list", "new").stdout.splitlines()] == ["point", "new"]


def test_rename_and_show() -> None:
    """A built point keeps what it has, under its new name."""
    subprocess.run(
        [sys.executable, "-m", "pipeline", "experiment=tiny"], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    done = run("rename", "good", "better")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "good is now better"
    assert "overrides: experiment=tiny" in run("show", "better").stdout


def test_prune_tells_and_then_removes() -> None:
    """Without --yes nothing is touched."""
    Path("artifacts/gone").mkdir(parents=True)
    Path("artifacts/gone/file").write_bytes(bytes(2**20))
    told = run("prune", "new")
    assert told.returncode == 0, told.stderr
    assert "would drop new" in told.stdout
    assert "would remove artifacts/gone" in told.stdout
    assert "1.0 MB in all" in told.stdout
    assert Path("artifacts/gone").exists()
    assert "new" in points.read()
    done = run("prune", "new", "--yes")
    assert done.returncode == 0, done.stderr
    assert not Path("artifacts/gone").exists()
    assert list(points.read()) == ["good"]
