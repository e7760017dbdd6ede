"""Errors a user can fix. Each is a Problem; a UserError carries all the problems found.

UserError
  └─ problems: Problem(what, where, fix), ...; Refusal(..., category) for a model that cannot be built

A full disk is reported the same way. Any other exception is a bug of kvforge and keeps its traceback.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

TRACEBACK = (
    "KVFORGE_TRACEBACK"  # a variable of the environment; set: a problem's traceback and cause are printed as well
)


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong, where (config key, file, tensor), and how to fix it."""

    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"error: {self.what}\n  where: {self.where}\n  fix:   {self.fix}"


@dataclass(frozen=True)
class Refusal(Problem):
    """A model that cannot be built. category: its property that stands in the way, of pipeline.core.tables.refusals."""

    category: str


class UserError(Exception):
    """One or more problems that the user can fix."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, up to 300 characters; the name of its class if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def one_line(error: BaseException) -> str:
    """An error's whole text on one line, up to 300 characters; the name of its class if it has no text."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def run(main: Callable[[], None]) -> None:
    """Run a command's main; on a UserError or a full disk print the problems and exit with 1. No traceback, unless
    TRACEBACK asks for it."""
    try:
        main()
    except UserError as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the final flush cannot fail
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = str(error.filename2 or error.filename or Path.cwd())
        fix = "free some space and run the same command again; python -m pipeline.doctor shows how much a model needs"
        print(Problem("the disk is full", where, fix), file=sys.stderr)
        sys.exit(1)
