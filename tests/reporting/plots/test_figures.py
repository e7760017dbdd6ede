"""figures: what each plot shows."""

import re
from itertools import combinations

import pytest
from matplotlib.text import Text

from pipeline.reporting import choose
from pipeline.reporting.plots import canvas, figures, svg
from pipeline.reporting.plots.canvas import Numbers
from pipeline.reporting.plots.labels import Box
from pipeline.reporting.records import Point
from tests.support.reports import point

STEPS = tuple((float(16 + i), 1.0 + i / 100) for i in range(16))


def texts(found: str) -> list[str]:
    """The texts of a plot."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", found)


def many(count: int) -> list[Point]:
    """Points of three kinds in two clouds, most of them close together."""
    return [
        point(
            f"m-{('fp32', 'int8', 'int4')[i % 3]}-cache_size_{i}",
            tokens=40.0 * (i % 3 + 1) + 7 * (i * 37 % 11) / 10,
            increase=(0.0, 0.004, 0.06)[i % 3] * (1 + i % 7 / 10),
            kind=("fp32", "int8", "int4")[i % 3],
            slots=2 ** (6 + i % 5),
            steps=STEPS,
        )
        for i in range(count)
    ]


def test_the_front_is_named() -> None:
    """And the recommended point; others have their number. The description has the front's figures."""
    points = [point("best", 30, 0.001), point("exact", 10), point("tied", 9.9, peak=1.0), point("slow", 5, 0.1)]
    (comparison,) = choose.compare(points)
    found = figures.quality("q", comparison, points, Numbers(points))
    assert {"best", "exact", "4"} <= set(texts(found.svg))
    assert "slow" not in texts(found.svg)
    assert "best, 30.0 tokens/s, 0.10 %; exact, 10.0 tokens/s, 0.00 %" in found.svg
    assert "<title>slow: 5.0 tokens/s, 10.00 %</title>" in found.svg
    assert found.title == "Decode speed against quality, one row, prompt of 8 tokens"


@pytest.mark.parametrize("count", [1, 60])
def test_labels_do_not_overlap(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in the font they are laid out in; the page's are narrower."""
    written: list[Box] = []
    inline = svg.inline

    def measure(figure: object, axes: object, *rest: object, **more: object) -> None:
        label(figure, axes, *rest, **more)  # type: ignore[arg-type]
        for text in axes.texts:  # type: ignore[attr-defined]
            extent = Text.get_window_extent(text)  # without its line
            written.append(Box(extent.x0 + 0.5, extent.y0 + 0.5, extent.x1 - 0.5, extent.y1 - 0.5))

    label = canvas.label
    monkeypatch.setattr(canvas, "label", measure)
    points = many(count)
    (comparison,) = choose.compare(points)
    assert figures.quality("q", comparison, points, Numbers(points)).svg
    assert len(written) >= min(count, 10)
    assert not [(one, other) for one, other in combinations(written, 2) if one.overlaps(other)]
    assert svg.inline is inline


def test_time_against_context() -> None:
    """A line for each point that has steps; nothing without any."""
    points = [point("a", steps=STEPS), point("b", steps=STEPS), point("c")]
    found = figures.context("c", points, ["a"], Numbers(points))
    assert found
    assert "a" in texts(found.svg)
    assert "a: 1 to 1.15 ms" in found.svg
    assert "b" not in texts(found.svg)
    assert "<title>b: median 100 ms</title>" in found.svg
    assert figures.context("c", [point("c"), point("d", speed=None)], [], Numbers([point("c"), point("d")])) is None


def test_single_delays_are_smoothed() -> None:
    """A step that the system delayed is its neighbours' time; a change that stays is kept."""
    assert [ms for _, ms in figures.smooth([(i, 9.0 if i == 3 else 1.0) for i in range(6)])] == [1.0] * 6
    assert [ms for _, ms in figures.smooth([(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0)])] == [1.0, 1.0, 2.0, 2.0]


def test_time_against_a_setting() -> None:
    """Points that differ in it alone are joined; nothing where all have the same."""
    points = [point("a", slots=64), point("b", slots=256), point("c", slots=64, kind="int4")]
    found = figures.against("s", "cache.size", "slots", points, ["b"], Numbers(points))
    assert found
    assert {"64", "256", "b"} <= set(texts(found.svg))
    assert "64: 100 to 100 ms; 256: 100 to 100 ms" in found.svg
    assert figures.against("s", "bench.batch", "rows", points, [], Numbers(points)) is None
    assert figures.against("s", "bench.batch", "rows", [], [], Numbers([])) is None


def test_memory_adds_up() -> None:
    """To the peak, whatever the files' size: mapped files that are not read are larger than their share."""
    assert figures.memory_parts(point("a", peak=100.0, cache_mb=20.0, rows=2)) == (50.0, 40.0, 10.0)
    assert figures.memory_parts(point("a", peak=60.0, cache_mb=20.0)) == (50.0, 10.0, 0.0)
    assert figures.memory_parts(point("a", peak=40.0)) == (40.0, 0.0, 0.0)
    assert figures.memory_parts(point("a", speed=None)) == (0.0, 0.0, 0.0)


def test_a_bar_for_each_point() -> None:
    """With its name and number; of many points those on a front."""
    points = many(figures.BARS + 1)
    numbers = Numbers(points)

    def bars(shown: list[Point], *front: str) -> list[str]:
        found = figures.memory("m", shown, front, numbers)
        assert found
        assert ("Pareto front" in found.caption) == (len(shown) > figures.BARS)
        return [text for text in texts(found.svg) if re.fullmatch(r"(int\d|fp32)-cache_size_\d+  \d+", text)]

    assert len(bars(points[1:])) == figures.BARS
    assert bars(points, "m-int8-cache_size_1") == ["int8-cache_size_1  2"]
    assert len(bars(points)) == figures.BARS
    assert figures.memory("m", [], [], Numbers([])) is None
