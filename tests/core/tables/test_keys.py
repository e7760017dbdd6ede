"""keys: the ranges of numbers."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.tables.keys import POSITIVE, SEED, SHARE, Interval


@given(st.floats())
def test_intervals(value: float) -> None:
    """Neither NaN nor infinity is in any interval, and the ends are as they say."""
    assert (value in SHARE) == (0 <= value <= 1)
    assert (value in POSITIVE) == (0 < value < math.inf)


def test_intervals_in_words() -> None:
    """A message and the documentation give both ends."""
    assert list(map(str, (Interval(2), POSITIVE, SHARE, SEED))) == [
        "2 or more",
        "above 0",
        "0 to 1",
        "0 to 4294967295",
    ]
