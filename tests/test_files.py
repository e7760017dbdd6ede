"""pipeline.files: an output is whole or not there."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files import replacing, replacing_folder, write_json, write_text
from tests.repository import ROOT


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
    with pytest.raises(FileNotFoundError), replacing(target) as aside:
        aside.write_text((tmp_path / "nope").read_text())
    assert target.read_text() == "old"


def test_a_folder_takes_its_place(tmp_path: Path) -> None:
    """A folder is replaced as a whole: no file of the old one remains."""
    target = tmp_path / "out"
    for name in ("old", "new"):
        with replacing_folder(target) as out:
            (out / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    """What was there stays when making a folder fails."""
    target = tmp_path / "out"
    with replacing_folder(target) as out:
        (out / "old").write_text("")
    with pytest.raises(ZeroDivisionError), replacing_folder(target) as out:
        _ = 1 / 0
    assert [path.name for path in target.iterdir()] == ["old"]


def test_a_killed_run_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves no output, and the next run cleans up after it."""
    code = """
import sys, time
from pathlib import Path
from pipeline.files import replacing_folder
with replacing_folder(Path(sys.argv[1])) as out:
    (out / "half").write_text("")
    print(flush=True)
    time.sleep(60)
"""
    target = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate()
    assert not target.exists()
    with replacing_folder(target) as out:
        (out / "whole").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole"]


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
