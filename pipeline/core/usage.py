"""Command lines by argparse, with every mistake as a problem and exit code 1."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence

from pipeline.core.errors import Problem, UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports all mistakes at once, as a UserError. --help shows the docstring of the command's
    module, the arguments, and `epilog`; it ends the process with 0.

    main: the command's function. name: the command's, empty for `python -m pipeline`. arguments: for the usage line.
    """

    def __init__(self, main: Callable[[], None], name: str, arguments: str = "", epilog: str = "") -> None:
        call = f"python -m pipeline.{name}".rstrip(".")
        super().__init__(
            prog=call,
            usage=f"{call} {arguments}".rstrip(),
            description=inspect.getdoc(inspect.getmodule(main)),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.problems: list[Problem] = []
        self.fix = f"{call} --help shows the arguments"  # of an unexpected argument
        self._required: list[str] = []

    def add_required(self, name: str, text: str) -> None:
        """Add a positional argument that must be given and must not be empty."""
        self.add_argument(name, metavar=name.upper(), nargs="?", default="", help=text)
        self._required.append(name)

    def add_number(self, flag: str, kind: type[int] | type[float], default: float | None, text: str) -> None:
        """Add an option that takes a whole number (int) or any number (float)."""

        def convert(text: str) -> float | None:
            try:
                return kind(text)
            except ValueError:
                wanted = "a whole number" if kind is int else "a number"
                self.problems.append(Problem(f"{flag} is {text!r}, not {wanted}", flag, f"give {wanted}"))
                return None

        metavar = "N" if kind is int else "X"
        self.add_argument(flag, type=convert, default=default, metavar=metavar, help=text)

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """The arguments, by default the process's. Raises UserError with every mistake."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        end = given.index("--") if "--" in given else len(given)
        texts = given[end + 1 :]  # argparse loses -- when options stand between positional arguments
        try:
            values, unknown = self.parse_known_intermixed_args(given[:end])
        except argparse.ArgumentError as error:
            name = str(error.argument_name)
            raise UserError([*self.problems, Problem(f"{name}: {error.message}", name, self.fix)]) from error
        for name in self._required:
            if texts and not getattr(values, name):
                setattr(values, name, texts.pop(0))
        for argument in unknown + texts:
            dashed = "; text that begins with - goes after --" if self._required and argument.startswith("-") else ""
            self.problems.append(Problem(f"unexpected argument {argument!r}", argument, self.fix + dashed))
        for name in self._required:
            if not getattr(values, name):
                self.problems.append(Problem(f"{name.upper()} is missing", name.upper(), f"usage: {self.usage}"))
        if self.problems:
            raise UserError(self.problems)
        return values


def no_arguments(main: Callable[[], None], name: str, epilog: str, hint: str = "") -> None:
    """Parse the command line of a command without arguments: print --help, or raise UserError for any other.

    hint: ends the fix of an unexpected argument.
    """
    parser = Parser(main, name, "", f"It takes no arguments.\n{epilog}")
    parser.fix = f"remove it: {parser.prog} takes no arguments{hint}"
    parser.parse()
