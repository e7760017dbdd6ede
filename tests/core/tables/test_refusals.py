"""refusals: every category says what to do about it."""

from pipeline.core.tables.refusals import FIXES, Category


def test_every_category_has_its_fix() -> None:
    """And none is left over."""
    assert FIXES.keys() == set(Category)
