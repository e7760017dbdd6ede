"""patched: what is replaced comes back; in a version without one of the names everything stays as it is."""

from types import ModuleType
from typing import Any

import pytest

from pipeline.core.patching import patched


class Base:
    """Of a library."""

    @staticmethod
    def inherited() -> str:
        """Not replaced in the class that has it."""
        return "inherited"


class Library(Base):
    """Of a library."""

    @staticmethod
    def value() -> int:
        """What it computes."""
        return 1


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted name of an importable library's class."""
    module = ModuleType("a_library")
    module.Library = Library  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "a_library", module)
    return "a_library.Library"


def plus_one(original: Any) -> Any:
    """A replacement."""
    return lambda: original() + 1


def test_replaced_comes_back(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Made from the original, also an inherited one; back after an error; nothing is printed."""
    with patched(library, "3 s", value=plus_one, inherited=lambda original: lambda: original().upper()):
        assert (Library.value(), Library.inherited()) == (2, "INHERITED")
    with pytest.raises(ZeroDivisionError), patched(library, "3 s", value=lambda _: lambda: 0):
        _ = 1 / Library.value()
    assert (Library.value(), Library.inherited()) == (1, "inherited")
    assert "inherited" not in vars(Library)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("owner", "says"),
    [
        ("a_library.Library", "has no attribute 'gone'"),
        ("a_library.Gone", "Gone"),
        ("no_such_library.Library", "no_such_library"),
    ],
)
def test_a_name_that_is_gone(library: str, capsys: pytest.CaptureFixture[str], owner: str, says: str) -> None:
    """Neither it nor the other is replaced or added; one line tells what it costs, and the code within runs."""
    with patched(owner, "3 s", value=plus_one, gone=plus_one):
        assert Library.value() == 1
        assert not hasattr(Library, "gone")
    (line,) = capsys.readouterr().err.splitlines()
    assert "3 s" in line
    assert says in line
