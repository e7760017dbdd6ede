"""canvas: how points are numbered, named and marked in plots."""

import re
from itertools import pairwise
from typing import Any

import pytest

from pipeline.reporting.plots import canvas
from pipeline.reporting.plots.canvas import Numbers
from pipeline.reporting.records import FAILED
from tests.support.reports import point


def test_points_are_numbered_in_their_order() -> None:
    """A name that is long is its number; what all measured points' names start with is left out."""
    numbers = Numbers([point("m-int8-a"), point("m-int8-bb"), point("x", speed=None), point("m-int4-" + 20 * "c")])
    assert numbers.of == {"m-int8-a": 1, "m-int8-bb": 2, "x": 3, "m-int4-" + 20 * "c": 4}
    assert [numbers.label(each) for each in (point("m-int8-a"), point("m-int4-" + 20 * "c"))] == ["int8-a", "4"]
    assert Numbers([point("m-a"), point("m-b")]).label(point("m-a")) == "m-a"


def test_kinds_differ_in_more_than_colour() -> None:
    """Each has a mark of its own too."""
    points = [point(str(i), kind=f"kind {i}") for i in range(8)]
    numbers = Numbers(points)
    assert len({numbers.style(each)[1] for each in points}) == 8
    assert numbers.style(point("0", kind="kind 1")) == numbers.style(points[1])


def drawn(*values: float) -> str:
    """A plot of points with these speeds, all named."""
    points = [point(f"p{i}", tokens=value) for i, value in enumerate(values)]
    numbers = Numbers(points)

    def draw(figure: Any, axes: Any) -> None:
        canvas.scale(axes, values)
        for i, each in enumerate(points):
            canvas.mark(axes, each, i, values[i], numbers)
        canvas.label(figure, axes, points, list(enumerate(values)), {"p0", "p1"}, numbers, others=True)

    return canvas.drawn(draw, "plot", "A title", "words", points, numbers, {"p1": "a hint"})


def test_a_plot_has_labels_and_hints() -> None:
    """Names of some points, numbers of the others."""
    found = drawn(1.0, 2.0, 3.0)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", found)
    assert {"p0", "p1", "3", "int8"} <= set(texts)
    assert "<title>a hint</title>" in found


def test_a_plot_is_the_same_each_time() -> None:
    """Byte for byte."""
    assert drawn(1.0, 2.0) == drawn(1.0, 2.0)


def test_points_that_are_not_verified_are_hollow() -> None:
    """Their marks have the colour of the page."""

    def draw(state: str) -> str:
        given, one = Numbers([point("a")]), point("a", state=state)
        return canvas.drawn(lambda _, axes: canvas.mark(axes, one, 1, 1, given), "p", "t", "d", [one], given)

    assert "fill:var(--bg)" in draw(FAILED)
    assert "fill:var(--bg)" not in draw("verified")


@pytest.mark.parametrize(("values", "scale"), [((1.0, 100.0), "log"), ((1.0, 7.0), "linear"), ((0.0, 9.0), "linear")])
def test_scales(values: tuple[float, ...], scale: str) -> None:
    """From 0, or logarithmic where figures differ much."""
    seen = []

    def draw(_: Any, axes: Any) -> None:
        canvas.scale(axes, values)
        seen.append((axes.get_yscale(), axes.get_ylim()))

    canvas.drawn(draw, "p", "t", "d")
    assert seen[0][0] == scale
    assert seen[0][1][0] == (0 if scale == "linear" else pytest.approx(1 / 1.5))
    assert seen[0][1][1] > max(values)


def test_names_at_the_ends_of_lines() -> None:
    """All are there, also of lines that leave the plot."""

    def draw(figure: Any, axes: Any) -> None:
        axes.plot([0, 1], [0, 1])
        axes.set_ylim(0, 2)
        canvas.label_ends(figure, axes, {"one": (1.0, 1.0), "two": (1.0, 1.0), "above": (1.0, 50.0)})

    texts = re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(one|two|above)</text>', canvas.drawn(draw, "p", "t", "d"))
    assert {name for _, name in texts} == {"one", "two", "above"}
    heights = sorted(float(y) for y, _ in texts)
    assert min(b - a for a, b in pairwise(heights)) > 10
    assert heights[0] > 0
