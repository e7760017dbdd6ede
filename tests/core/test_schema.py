"""schema: a stage reads its sections of params.yaml."""

from pathlib import Path

import pytest
from omegaconf.errors import OmegaConfBaseException

from pipeline.core.errors import UserError
from pipeline.core.layout import PARAMS
from pipeline.core.schema import Bench, Cache, ComputeType, Precision, section


def test_a_section_is_read_typed(tmp_path: Path) -> None:
    """As its dataclass: names become members, and a key without a value is an error that names it."""
    (tmp_path / PARAMS).write_text("cache: {size: 3}\nprecision: {compute: bf16}\nbench: {batch: 1}\n")
    assert section(Cache, tmp_path) == Cache(3)
    assert section(Precision, tmp_path) == Precision(ComputeType.bf16)
    with pytest.raises(OmegaConfBaseException, match="prompt"):
        section(Bench, tmp_path)


def test_a_key_of_another_version_is_named(tmp_path: Path) -> None:
    """A params.yaml that was written by other code is not read as if the key did not exist."""
    (tmp_path / PARAMS).write_text("cache: {size: 3, slots: 4}\n")
    with pytest.raises(OmegaConfBaseException, match="slots"):
        section(Cache, tmp_path)


def test_a_point_that_is_not_composed(tmp_path: Path) -> None:
    """The message says what to run."""
    with pytest.raises(UserError, match="dvc repro"):
        section(Cache, tmp_path)
