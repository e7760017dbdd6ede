"""--help of the commands, and the refusal of arguments that a command does not take."""

import inspect
import sys
from collections.abc import Callable

from pipeline.core.errors import Problem, UserError

HELP = ("-h", "--help")


def asked() -> bool:
    """Whether the command line asks for help."""
    return any(argument in HELP for argument in sys.argv[1:])


def text(main: Callable[[], None], call: str, *more: str) -> str:
    """What --help prints: how to call it, what its module says of itself, and more paragraphs."""
    said = inspect.getdoc(inspect.getmodule(main)) or ""
    return "\n\n".join([f"usage: {call}", said, *more])


def no_arguments(call: str) -> None:
    """Raise UserError when the command line has arguments."""
    if sys.argv[1:]:
        problems = [Problem(f"unexpected argument {argument!r}", argument, call) for argument in sys.argv[1:]]
        raise UserError(problems)
