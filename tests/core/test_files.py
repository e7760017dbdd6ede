"""files: an output is whole or not there."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.files import atomic_folder, atomic_path, write_json, write_text
from tests.support.repository import ROOT


def test_a_file_takes_its_place(tmp_path: Path) -> None:
    """Folders on the way are made, an old file is replaced, and nothing is left beside it."""
    target = tmp_path / "a" / "b.txt"
    for text in ("old", "new"):
        write_text(target, text)
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    """What was there stays when writing fails."""
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(target) as aside:
        aside.write_text((tmp_path / "nope").read_text())
    assert target.read_text() == "old"


def test_a_folder_takes_its_place(tmp_path: Path) -> None:
    """A folder is replaced as a whole: no file of the old one remains."""
    target = tmp_path / "out"
    for name in ("old", "new"):
        with atomic_folder(target) as out:
            (out / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    """What was there stays when making a folder fails."""
    target = tmp_path / "out"
    with atomic_folder(target) as out:
        (out / "old").write_text("")
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as out:
        _ = 1 / 0
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_killed_run_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves no output, and the next run cleans up after it."""
    code = """
import sys, time
from pathlib import Path
from pipeline.core.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as out:
    (out / "half").write_text("")
    print(flush=True)
    time.sleep(60)
"""
    target = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"  # it is writing
    process.kill()
    process.communicate()
    assert not target.exists()
    with atomic_folder(target) as out:
        (out / "whole").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


HAMMER = """
import sys
from pathlib import Path
from pipeline.core.files import atomic_path, atomic_folder
target, mark, folder = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "folder"
for _ in range(150):
    if folder:
        with atomic_folder(target) as out:
            for name in "ab":
                (out / name).write_text(mark * 1000)
    else:
        with atomic_path(target) as out:
            out.write_text(mark * 100_000)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_processes_that_write_one_target_do_not_disturb_each_other(tmp_path: Path, kind: str) -> None:
    """Three at once, 150 times each: none fails, the target is always one process' own, and nothing is left."""
    target = tmp_path / "out"
    writers = [
        subprocess.Popen([sys.executable, "-c", HAMMER, str(target), mark, kind], cwd=ROOT, stderr=subprocess.PIPE)
        for mark in "123"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if kind == "file" and target.exists():
            seen.add(target.read_text())
    assert [writer.communicate()[1] for writer in writers] == [b"", b"", b""]
    if kind == "file":
        assert seen <= {mark * 100_000 for mark in "123"}
    else:
        assert {path.read_text() for path in target.iterdir()} in [{mark * 1000} for mark in "123"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_is_being_written_is_not_a_leftover(tmp_path: Path) -> None:
    """A writer inside another one on the same target leaves the other's file alone; the last to finish wins."""
    target = tmp_path / "a.txt"
    with atomic_path(target) as outer:
        outer.write_text("outer")
        write_text(target, "inner")
        assert target.read_text() == "inner"
    assert target.read_text() == "outer"
    assert list(tmp_path.iterdir()) == [target]


def test_other_targets_are_left_alone(tmp_path: Path) -> None:
    """Only what is called like the target and ends in .partial is removed."""
    for name in (".out.partial", ".out.x1.partial", ".other.x1.partial", ".out.txt", "out.x1.partial"):
        (tmp_path / name).mkdir()
    write_text(tmp_path / "out", "text")
    assert {path.name for path in tmp_path.iterdir()} == {".other.x1.partial", ".out.txt", "out.x1.partial", "out"}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Replacing a symbolic link to a folder leaves that folder alone."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("")
    target = tmp_path / "link"
    target.symlink_to(folder)
    write_text(target, "text")
    assert target.read_text() == "text"
    assert (folder / "file").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_holds_no_nan(tmp_path: Path, value: float) -> None:
    """A number that JSON does not know is refused, and no file is made."""
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": value})
    assert not (tmp_path / "a.json").exists()
