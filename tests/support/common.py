"""A folder that the tests of all workers of pytest-xdist share, for what is made once in a test run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

_folder: Path | None = None


def use(factory: pytest.TempPathFactory) -> None:
    """Put the folder into this test run's temporary folder, above those of its workers."""
    global _folder  # set once, by conftest.py
    own = factory.getbasetemp()
    _folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    _folder.mkdir(exist_ok=True)


@contextmanager
def once(name: str) -> Iterator[tuple[Path, bool]]:
    """Give a path in the folder and whether it has been made; the block makes it. Other workers wait meanwhile.

    A block that fails leaves nothing.
    """
    assert _folder is not None
    path, done = _folder / name, _folder / f"{name}.done"
    with FileLock(_folder / f"{name}.lock"):
        made = done.exists()
        if not made:
            shutil.rmtree(path, ignore_errors=True)
        yield path, made
        done.touch()
