"""errors: what a user sees of a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import errors
from pipeline.core.errors import Problem, UserError
from tests.support.repository import ROOT

ONE = Problem("it is wrong", "some.key", "put it right")
TWO = Problem("so is this", "other.key", "and this")


def test_a_problem_says_what_where_and_how() -> None:
    """Three lines, the same for every problem."""
    assert str(ONE) == "error: it is wrong\n  where: some.key\n  fix:   put it right"


@pytest.mark.parametrize(
    ("error", "first", "all_lines"),
    [
        (ValueError("\n one\n\n  two "), "one", "one two"),
        (ValueError(" "), "ValueError", "ValueError"),
        (KeyError("a"), "'a'", "'a'"),
        (OSError(), "OSError", "OSError"),
        (ValueError("x" * 1000), "x" * 300, "x" * 300),
    ],
)
def test_the_text_of_other_errors(error: Exception, first: str, all_lines: str) -> None:
    """For messages of ours: never empty, never long."""
    assert errors.first_line(error) == first
    assert errors.one_line(error) == all_lines


def test_an_error_carries_all_problems() -> None:
    """One problem or many, in order."""
    assert UserError(ONE).problems == (ONE,)
    assert UserError(problem for problem in (ONE, TWO)).problems == (ONE, TWO)
    assert str(UserError([ONE, TWO])) == f"{ONE}\n{TWO}"


def test_run_prints_and_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A user's mistake goes to stderr, and the exit code is 1."""

    def main() -> None:
        raise UserError([ONE, TWO])

    with pytest.raises(SystemExit) as end:
        errors.run(main)
    assert end.value.code == 1
    assert capsys.readouterr() == ("", f"{ONE}\n{TWO}\n")


def test_the_traceback_is_there_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the exception that the problem was made of; the problem itself comes last."""
    monkeypatch.setenv(errors.TRACEBACK, "1")

    def main() -> None:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise UserError(ONE) from cause

    with pytest.raises(SystemExit):
        errors.run(main)
    printed = capsys.readouterr().err
    assert "KeyError: 'the cause'" in printed
    assert "Traceback" in printed
    assert printed.endswith(f"\n{ONE}\n")


def test_a_full_disk_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Linux has a device that is always full; any other error of the system keeps its traceback."""

    def main() -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as file:
            file.write("x" * 2**20)

    with pytest.raises(SystemExit) as end:
        errors.run(main)
    assert end.value.code == 1
    assert "error: the disk is full" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        errors.run(lambda: Path("no such file").unlink())


def test_a_bug_keeps_its_traceback() -> None:
    """What is no user's mistake must not look like one."""
    code = "from pipeline.core import errors; errors.run(lambda: 1 / 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_a_reader_that_ends_first() -> None:
    """`command | head`: no traceback, whatever was still to be written."""
    code = "from pipeline.core import errors; errors.run(lambda: [print('x' * 999, flush=True) for _ in range(9999)])"
    pipe = f'{sys.executable} -c "{code}" | head -1'
    done = subprocess.run(["bash", "-c", pipe], cwd=ROOT, capture_output=True, text=True)  # a shell's pipe is the point
    assert done.stdout == "x" * 999 + "\n"
    assert done.stderr == ""
