"""Atomic writes: outputs are written to a temporary path and renamed, so a killed run never leaves half of one.

Several processes may write one target: each writes to a folder of its own, and the last to finish wins. The next writer
removes the folder that a killed process left. Nothing is synced to disk: this protects against kills, not against power
loss.
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.core.errors import Problem, UserError

PARTIAL = ".partial"
TARGET_EXISTS = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR}  # rename's errors for a folder


def unreadable(path: Path, error: OSError, where: str | None = None) -> Problem:
    """The problem of a user's file that cannot be read; `where`: its config key, if it has one."""
    what = f"{path} cannot be read: {error.strerror or error}"
    return Problem(what, where or str(path), "check that the file exists and that you may read it")


LFS_POINTER = b"version https://git-lfs"


@contextmanager
def readable(path: Path, where: str | None = None) -> Iterator[None]:
    """Inside this context, which only reads a user's file, turn an OSError into a UserError; see `unreadable`."""
    try:
        yield
    except OSError as error:
        raise UserError(unreadable(Path(error.filename or path), error, where)) from error


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write a file or a folder to; it replaces `target` only on success.

    A file is replaced in one atomic step. A folder cannot be: the old one is moved away, then the new one is
    moved in, so between two renames there is no folder, but never half of one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    aside, lock = _own_folder(target)
    try:
        yield aside / target.name
        _move(aside / target.name, target, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Like `atomic_path`, for a folder: yield an empty folder to write into."""
    with atomic_path(target) as aside:
        aside.mkdir()
        yield aside


def write_text(target: Path, text: str) -> None:
    """Write a whole text file atomically, as UTF-8."""
    with atomic_path(target) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; refuses NaN and infinity, which are not JSON."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises UserError when it does not hold one."""
    with readable(path):
        data = path.read_bytes()
    if data.startswith(LFS_POINTER):
        raise UserError(lfs_pointer(path))
    try:
        value = json.loads(data)
    except ValueError as error:  # of JSON's form, or of UTF-8's
        raise UserError(Problem(f"{path} is not valid JSON: {error}", str(path), "correct or restore it")) from error
    if not isinstance(value, dict):
        fix = "correct or restore it"
        raise UserError(Problem(f"{path} holds a {type(value).__name__}, not a JSON object", str(path), fix))
    return value


def is_pointer(path: Path) -> bool:
    """Whether a file is a git-lfs pointer in place of the file itself."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def lfs_pointer(path: Path) -> Problem:
    """The problem of a git-lfs pointer in place of a file."""
    fix = "run git lfs pull in the repository it comes from, or download the file itself"
    return Problem(f"{path} is a git-lfs pointer, not the file itself", str(path), fix)


def _own_folder(target: Path) -> tuple[Path, int]:
    """A new folder beside `target`, and the descriptor that holds its lock. The lock ends with its process, so it
    distinguishes a folder in use from a leftover, also across containers, where process ids would not."""
    while True:
        aside = Path(tempfile.mkdtemp(PARTIAL, _prefix(target), target.parent))
        try:
            lock = _locked(aside)
        except OSError:  # a file system without locks: leftovers of killed processes stay there
            lock = os.open(aside, os.O_RDONLY)
        if lock is not None:
            return aside, lock  # else another process removed it as a leftover before it was locked


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders that killed processes left beside `target`."""
    for path in target.parent.iterdir():
        if not path.name.startswith(_prefix(target)) or not path.name.endswith(PARTIAL):
            continue
        with suppress(OSError):  # no locks here, or another user's folder
            lock = _locked(path)
            if lock is not None:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
                os.close(lock)


def _locked(path: Path) -> int | None:
    """An open descriptor of `path` that holds its lock; None when another process has it, or `path` is gone."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            found, descriptor = descriptor, None
            return found
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if descriptor is not None:
            os.close(descriptor)
    return None


def _prefix(target: Path) -> str:
    return f".{target.name}."


def _move(made: Path, target: Path, aside: Path) -> None:
    """Rename `made` to `target`. An existing folder, which another process may just have put there, is moved to `aside`
    first."""
    while True:
        try:
            made.replace(target)
        except OSError as error:
            if error.errno not in TARGET_EXISTS:
                raise
            with suppress(FileNotFoundError):  # another process moved it away
                target.rename(Path(tempfile.mkdtemp(dir=aside)) / target.name)
        else:
            return
