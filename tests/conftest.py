"""Fixtures that several test files share."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.signature import Signature
from tests.points import build

# how long an example takes is the machine's affair; the rest is hypothesis' default, on CI its own for CI
settings.register_profile("kvforge", settings.default, deadline=None)
settings.load_profile("kvforge")


FIRST = ("test_smollm2", "test_dvc", "test_sweep", "test_resilience")  # files that take minutes


def pytest_configure() -> None:
    """A worker of pytest-xdist and all that it starts keep to one core: two that share both wait in each other's
    spin locks, and take twice as long."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signature]:
    """A tiny Llama with random weights, built up to its engine: its folder and its contract. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, build(folder, [])


@pytest.fixture
def tiny_copy(tiny: tuple[Path, Signature], tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the tiny point, to be changed at will."""
    return lambda: Path(shutil.copytree(tiny[0], tmp_path / "point", symlinks=True))
