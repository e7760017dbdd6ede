"""check.py: every damaged file of a package is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.packaging import check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files and their checksums."""
    (tmp_path / "reports").mkdir()
    for name in ("a.bin", "with two  spaces", "reports/b.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    names = ["a.bin", "reports/b.json", "with two  spaces"]
    (tmp_path / check.SUMS).write_text("".join(f"{check.sha256(tmp_path / name)}  {name}\n" for name in names))
    return tmp_path


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """The check as a user runs it, without site-packages."""
    return subprocess.run([sys.executable, "-I", "-S", check.__file__, folder], capture_output=True, text=True)


def test_a_sound_folder_passes_and_coreutils_agrees(folder: Path) -> None:
    """Exit code 0; sha256sum reads the same file."""
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 files are as they were packaged")
    assert check.sha256(folder / check.SUMS) in done.stdout
    subprocess.run(["sha256sum", "--check", "--quiet", check.SUMS], cwd=folder, check=True)


def test_every_damaged_file_is_named(folder: Path) -> None:
    """One flipped bit, and a missing file; the sound one is not named."""
    data = bytearray((folder / "a.bin").read_bytes())
    data[-1] ^= 1
    (folder / "a.bin").write_bytes(data)
    (folder / "reports/b.json").unlink()
    done = run(folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[:-1] == ["a.bin: changed", "reports/b.json: missing"]


@pytest.mark.parametrize("text", ["", "no checksum here\n", None])
def test_unreadable_sums_are_named(folder: Path, text: str | None) -> None:
    """Empty, of another form, or not there: not a traceback, and never a pass."""
    (folder / check.SUMS).unlink()
    if text is not None:
        (folder / check.SUMS).write_text(text)
    done = run(folder)
    assert done.returncode == 1
    assert done.stderr.startswith("SHA256SUMS: cannot be read")
