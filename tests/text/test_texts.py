"""texts: which texts a point is calibrated and measured on."""

from pathlib import Path

import pytest

from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.text import texts
from pipeline.text.texts import CALIBRATION, QUALITY


def test_the_default_is_pythons_documentation(tmp_path: Path) -> None:
    """A long English text in a fixed order; DVC hashes the module that holds it."""
    texts.write_link(None, QUALITY, tmp_path)
    text = texts.read(None, QUALITY, tmp_path)
    assert text.startswith('The "assert" statement')
    assert len(text) > 300_000
    assert "\n\nAssignment statements\n" in text
    assert (tmp_path / layout.TEXT).resolve().name == "topics.py"


def test_a_file_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is linked by its absolute path and read through the link, wherever the stage runs; a new link replaces it."""
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("Größe", encoding="utf-8")
    for _ in range(2):
        texts.write_link("mine.txt", CALIBRATION, tmp_path / "point")
    monkeypatch.chdir("/")
    assert texts.read("mine.txt", CALIBRATION, tmp_path / "point") == "Größe"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no file"), (b"", "is empty"), (b" \n", "is empty"), (b"Gr\xfc\xdfe", "not UTF-8")],
)
def test_what_is_no_text(tmp_path: Path, content: bytes | None, says: str) -> None:
    """A file that is missing, empty or not UTF-8 is refused under its key."""
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(UserError) as error:
        texts.find(str(tmp_path / "mine.txt"), QUALITY)
    (problem,) = error.value.problems
    assert problem.where == "verify.quality.text"
    assert says in problem.what


def test_a_file_that_cannot_be_read() -> None:
    """Its first byte is an error of input and output: one problem, not a traceback."""
    with pytest.raises(UserError, match="/proc/self/mem cannot be read: Input/output error"):
        texts.find("/proc/self/mem", QUALITY)
