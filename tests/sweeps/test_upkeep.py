"""What points are, their names, and what they no longer need."""

from pathlib import Path

import pytest

from pipeline.config import points
from pipeline.core.errors import UserError
from pipeline.sweeps import build, upkeep
from pipeline.sweeps.dvc import Progress
from tests.support import quick


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository with a built point, a failed one and one that was not built, as the working folder."""
    folder = quick.make(tmp_path / "repository", cached=True)
    (folder / "params.yaml").write_text("points:\n  # the best\n  good: [experiment=tiny]\n  bad: []\n  new: []\n")
    monkeypatch.chdir(folder)
    build.collect(["good", "bad"], {}, Progress())


def test_each_point_has_its_state() -> None:
    """Built, failed, not built; and after a change, to build."""
    rows = [line.split() for line in upkeep.table(["good", "bad", "new"])]
    assert [row[:2] for row in rows] == [["point", "state"], ["good", "built"], ["bad", "failed"], ["new", "not"]]
    assert rows[1][-1] == "experiment=tiny"
    Path("stage.py").write_text("raise SystemExit(2)", encoding="utf-8")
    assert list(upkeep.table(["good"]))[1].split()[1:3] == ["to", "build"]


def test_details_say_how_it_came_to_be() -> None:
    """Each stage with its outcome, its reason and its error."""
    text = "\n".join(upkeep.details("bad"))
    assert "bad: failed in verify" in text
    assert "verify    failed" in text
    assert "(first build): the point called bad fails" in text


def test_a_new_name_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the tests' stages is part of their commands, so these run again; of the project's own stages none
    does (tests/test_sweep.py). Comments in params.yaml stay."""
    upkeep.rename("good", "better", Progress())
    assert list(points.read()) == ["better", "bad", "new"]
    assert "# the best" in Path("params.yaml").read_text(encoding="utf-8")
    assert not Path("artifacts/good").exists()
    assert next(iter(upkeep.details("better"))).startswith("better: built")
    upkeep.rename("new", "newer", Progress())
    assert "newer" in points.read()
    assert not Path("artifacts/newer").exists()


@pytest.mark.parametrize(("new", "why"), [("a.b", "cannot be called"), ("bad", "exists")])
def test_names_that_cannot_be_taken(new: str, why: str) -> None:
    """Nothing has changed then."""
    before = Path("params.yaml").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=why):
        upkeep.rename("good", new, Progress())
    assert Path("params.yaml").read_text(encoding="utf-8") == before


def test_what_no_point_needs() -> None:
    """Nothing at first; of a dropped point its folder and what the cache has of it."""
    assert upkeep.garbage() == upkeep.Garbage((), 0, 0, 0)
    (of_good,) = [
        path for path in Path(".dvc/cache/files").rglob("*") if path.is_file() and b"12.5" in path.read_bytes()
    ]
    points.drop(["good"])
    found = upkeep.garbage()
    assert found.folders == (Path("artifacts/good"),)
    assert found.cached == 2
    assert found.cached_bytes > of_good.stat().st_size
    upkeep.remove(found)
    assert not of_good.exists()
    assert not Path("artifacts/good").exists()
    assert upkeep.garbage().cached == 0


def test_sizes() -> None:
    """Of files and folders; links do not count with what they lead to."""
    Path("a").mkdir()
    Path("a/file").write_bytes(b"12345")
    Path("a/link").symlink_to(Path("dvc.yaml").resolve())
    assert 5 <= upkeep.size(Path("a")) < 5 + 400
    assert upkeep.size(Path("a/file")) == 5
    assert [upkeep.megabytes(n) for n in (2**20, 3 * 2**30)] == ["1.0 MB", "3.0 GB"]
