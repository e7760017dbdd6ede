"""Outputs are written aside and renamed, so that a killed run never leaves half of one under its own name."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ASIDE = ".partial"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to; it takes target's place only on success.

    A file is replaced in one atomic step. A folder cannot be: the old one is moved away, then the new one is
    moved in, so between two renames there is no folder, but never half of one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}{ASIDE}")
    _remove(aside)  # what a killed run left
    yield aside
    if target.is_dir() and not target.is_symlink():
        old = target.with_name(f".{target.name}.old{ASIDE}")
        _remove(old)
        target.rename(old)
        aside.rename(target)
        _remove(old)
    else:
        aside.replace(target)


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """As `replacing`, with an empty folder made to write into."""
    with replacing(target) as aside:
        aside.mkdir()
        yield aside


def write_text(target: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with replacing(target) as aside:
        aside.write_text(text)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; refuses NaN and infinity, which are not JSON."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")
