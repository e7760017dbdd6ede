"""Places for labels beside what they name, where none covers another, or a mark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

DISTANCES = (3.0, 12.0, 24.0, 40.0)  # from a mark to its label
RIGHT_FIRST = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))  # across, up
LEFT_FIRST = ((-1, 0), (-1, 1), (0, 1), (1, 0), (1, 1), (-1, -1), (0, -1), (1, -1))
Sides = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Whether they share an area."""
        beside = self.right <= other.left or other.right <= self.left
        return not (beside or self.top <= other.bottom or other.top <= self.bottom)

    def within(self, other: "Box") -> bool:
        """Whether it leaves the other nowhere."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


def around(x: float, y: float, size: float) -> Box:
    """The square of a mark."""
    return Box(x - size / 2, y - size / 2, x + size / 2, y + size / 2)


def spread(heights: Sequence[float], gap: float, bottom: float, top: float) -> list[float]:
    """Ascending heights moved as little as each can so that neighbours are `gap` apart, from `bottom` to `top`."""
    groups: list[list[float]] = []  # of neighbours that touch: their heights less what is below each
    for number, height in enumerate(heights):
        groups.append([height - number * gap])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = [fmean(group) for group in groups for _ in group]
    highest = top - (len(level) - 1) * gap  # of the level: the last label then ends at the top
    return [max(min(each, highest), bottom) + number * gap for number, each in enumerate(level)]


def place(
    mark: Box,
    width: float,
    height: float,
    taken: Sequence[Box],
    frame: Box,
    reach: float,
    sides: Sides = RIGHT_FIRST,
) -> Box | None:
    """A place for a label near its mark; None where there is none.

    taken: boxes that stay free, all marks among them. frame: holds all labels. reach: the largest distance from the
    mark, at most the last of DISTANCES. sides: of the mark, the best first.
    """
    fitting = (box for box in _candidates(mark, width, height, reach, sides) if box.within(frame))
    return next((box for box in fitting if not any(box.overlaps(other) for other in taken)), None)


def _candidates(mark: Box, width: float, height: float, reach: float, sides: Sides) -> Iterator[Box]:
    """Places around a mark, the nearest first."""
    middle_x, middle_y = (mark.left + mark.right) / 2, (mark.bottom + mark.top) / 2
    for distance in DISTANCES:
        if distance > reach:
            return
        for across, up in sides:
            left = middle_x - width / 2
            bottom = middle_y - height / 2
            if across:
                left = mark.right + distance if across > 0 else mark.left - distance - width
            if up:
                bottom = mark.top + distance if up > 0 else mark.bottom - distance - height
            yield Box(left, bottom, left + width, bottom + height)
