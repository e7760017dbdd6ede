"""Replace functions of other libraries within a context, where that saves seconds or memory."""

import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


@contextmanager
def patched(owner: str, saves: str, **replacements: Callable[[Any], Any]) -> Iterator[None]:
    """Replace attributes of a module or class; each replacement is made from the original: name=make.

    owner: dotted name; saves: what is lost without, for the line on stderr in a version of the library that lacks one
    of the names. There all attributes stay, and the library takes its own, slower path to the same result.
    """
    with ExitStack() as stack:
        try:
            found = pkgutil.resolve_name(owner)
            new = {name: make(getattr(found, name)) for name, make in replacements.items()}
            stack.enter_context(mock.patch.multiple(found, **new))
        except (ImportError, AttributeError) as error:
            print(f"note: this version lacks a shortcut of kvforge, which saves {saves}: {error}", file=sys.stderr)
        yield
