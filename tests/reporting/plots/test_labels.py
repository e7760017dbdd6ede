"""labels: places that cover nothing."""

from itertools import combinations

import numpy as np
import pytest

from pipeline.reporting.plots.labels import LEFT_FIRST, Box, around, place, spread

FRAME = Box(0, 0, 400, 300)


def test_boxes() -> None:
    """Boxes that touch do not overlap."""
    assert around(5, 5, 2) == Box(4, 4, 6, 6)
    assert Box(0, 0, 2, 2).overlaps(Box(1, 1, 3, 3))
    assert not Box(0, 0, 2, 2).overlaps(Box(2, 0, 3, 3))
    assert Box(0, 0, 2, 2).within(Box(0, 0, 2, 3))
    assert not Box(0, 0, 2, 4).within(Box(0, 0, 2, 3))


def test_the_nearest_free_place_is_taken() -> None:
    """To the right first, to the left where that is taken or outside."""
    mark = around(100, 100, 10)
    right = place(mark, 50, 10, [mark], FRAME, 40)
    assert right == Box(108, 95, 158, 105)
    assert place(mark, 50, 10, [mark, right], FRAME, 40) == Box(42, 95, 92, 105)
    assert place(mark, 50, 10, [mark], FRAME, 40, LEFT_FIRST) == Box(42, 95, 92, 105)
    assert place(around(390, 100, 10), 50, 10, [], FRAME, 40) == Box(332, 95, 382, 105)


def test_what_has_no_room_has_no_place() -> None:
    """Nor has what would be further away than allowed."""
    mark = around(100, 100, 10)
    near = [box for _ in range(8) if (box := place(mark, 50, 10, [mark], FRAME, 3))]
    taken = [mark]
    while (box := place(mark, 50, 10, taken, FRAME, 3)) is not None:
        taken.append(box)
    assert 4 <= len(taken) - 1 <= 8
    assert near
    assert place(mark, 50, 10, taken, FRAME, 40) is not None
    assert place(mark, 500, 10, [mark], FRAME, 40) is None


def test_sixty_labels_never_overlap() -> None:
    """Wherever the marks are."""
    rng = np.random.default_rng(0)
    marks = [around(x, y, 9) for x, y in rng.uniform(0, 300, (60, 2)).tolist()]
    taken = list(marks)
    for mark in marks:
        found = place(mark, 60, 11, taken, FRAME, 40)
        if found:
            taken.append(found)
    added = taken[60:]
    assert len(added) > 10
    assert not any(one.overlaps(other) for one, other in combinations(added, 2))
    assert not any(one.overlaps(mark) for one in added for mark in marks)


def test_heights_are_moved_apart() -> None:
    """As little as it takes, within the frame where there is room."""
    assert spread([10, 50], 12, 0, 100) == [10, 50]
    assert spread([50, 50], 12, 0, 100) == [44, 56]
    assert spread([99, 100], 12, 0, 100) == [88, 100]
    assert spread([0, 1], 12, 0, 100) == [0, 12]
    assert spread([], 12, 0, 100) == []
    found = spread(sorted(np.random.default_rng(0).uniform(0, 100, 8).tolist()), 12, 0, 100)
    assert np.diff(found) == pytest.approx(np.maximum(np.diff(found), 12))
    assert min(found) >= 0
    assert max(found) <= 100
