"""Fixtures that several test files share."""

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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signature]:
    """A tiny Llama with random weights, built up to its engine: its folder and its contract. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    return folder, build(folder, [])


@pytest.fixture
def tiny_copy(tiny: tuple[Path, Signature], tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the tiny point, to be changed at will."""
    return lambda: Path(shutil.copytree(tiny[0], tmp_path / "point", symlinks=True))
