"""What a package holds, and the bytes of its tar file."""

import json
import os
import tarfile
from importlib.metadata import version
from pathlib import Path

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.packaging import check, contents, run
from tests.support import packages


def test_a_package_holds_all_that_it_needs(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Every file is listed with its checksum and writable; links are files; paths of this machine stay here."""
    point = packages.ready(tiny[0], tmp_path / "point", speaks=True)
    model = point / layout.ENGINE / layout.DATA
    model.rename(tmp_path / "cached")
    model.symlink_to(tmp_path / "cached")  # as DVC may have it
    (tmp_path / "cached").chmod(0o444)
    out = tmp_path / "out"
    out.mkdir()
    contents.write(point, "mine", out)
    assert list(check.problems(out)) == []
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert files == {*check.listed(out), check.SUMS}
    assert files >= {
        *("run.py", "check.py", "README.md", "requirements.txt", "engine.json", "model.onnx", "model.onnx.data"),
        *("tokenizer.json", "chat_template.jinja", "reports/verify.json", "reports/bench.json"),
    }
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert all(path.stat().st_mode & 0o200 for path in out.rglob("*"))
    assert (out / "run.py").read_text() == Path(run.__file__).read_text(encoding="utf-8")
    assert (out / "requirements.txt").read_text().splitlines()[0] == f"onnxruntime=={version('onnxruntime')}"
    assert json.loads((out / "reports/verify.json").read_text())["quality"]["text"] == "book.txt"
    assert (out / "README.md").read_text().startswith("---\nlicense: unknown\n")
    for path in out.rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path


def test_equal_folders_give_equal_archives(tmp_path: Path) -> None:
    """Whatever their times, modes and the order in which they were written."""
    names = ["b", "a/c", "a/b", "d"]
    for folder, order, time in (("one", names, 5), ("two", names[::-1], 6)):
        for name in order:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            os.utime(path, (time, time))
            path.chmod(0o600 + time)
        contents.archive(tmp_path / folder, "root", tmp_path / f"{folder}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert tar.getnames() == ["root", "root/a", "root/a/b", "root/a/c", "root/b", "root/d"]
        assert {entry.mode for entry in tar if entry.isfile()} == {0o644}
