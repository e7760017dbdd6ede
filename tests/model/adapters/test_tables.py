"""Where models without position_ids have their positions."""

import pytest

from pipeline.model.adapters.tables import has_alibi, tables
from tests.support.architectures import wider_model


@pytest.mark.parametrize(("kind", "first"), [("bart", 2), ("pegasus", 0), ("trocr", 2), ("trocr, sinusoidal", 1)])
def test_first_rows(kind: str, first: int) -> None:
    """Of Bart's table, of sinusoids of Pegasus, and of sinusoids behind a padding token."""
    model = wider_model(kind)
    assert [table.first for table in tables(model)] == [first]
    assert not has_alibi(model)


@pytest.mark.parametrize("kind", ["bloom", "mpt", "falcon, alibi"])
def test_alibi_reads_no_positions(kind: str) -> None:
    """Slots stand for them. Falcon has it or not, by its configuration."""
    model = wider_model(kind)
    assert has_alibi(model)
    assert not has_alibi(wider_model("falcon"))
