"""Turn what a model's own code, or the tracer in it, raises into a refusal that names the module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

import torch

from pipeline.core.errors import Refusal, UserError, first_line
from pipeline.core.tables.refusals import FIXES, Category


@contextmanager
def refused(
    model: torch.nn.Module, architecture: str, action: str, errors: type[Exception] = Exception
) -> Iterator[None]:
    """Raise UserError for any exception within but a UserError, a full disk or too little memory.

    action: what fails, as in "its forward fails"; errors: the class of exceptions that are meant.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except errors as error:
        names = {id(module): name for name, module in model.named_modules()}
        module = _innermost(error.__traceback__, names)
        what = f"{architecture}: {action}: {type(error).__name__}: {first_line(error)}"
        where = f"module {module}" if module else "model"
        raise UserError(Refusal(what, where, FIXES[Category.TRACING], Category.TRACING)) from error


def _innermost(trace: TracebackType | None, names: Mapping[int, str]) -> str:
    """Return the name of the last module whose method the exception came through."""
    found = ""
    while trace is not None:
        found = names.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found
