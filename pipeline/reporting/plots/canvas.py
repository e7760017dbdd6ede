"""What all plots have in common: how they look, how points are marked and labelled, and the way to SVG."""

import io
from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from pipeline.reporting.plots import labels, svg
from pipeline.reporting.plots.labels import Box
from pipeline.reporting.records import VERIFIED, Point

SIZE = (5.0, 3.9)  # inches of 72 units: text has its own size on a phone that is 360 pixels wide
FONT, SMALL = 10, 8.5  # units
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
MARK = 7.0  # units across
LONGEST = 18  # characters of a name in a plot; a longer one is its number there
STYLE: Any = {  # Any: matplotlib has a type with every key
    "svg.fonttype": "none",
    "svg.hashsalt": "kvforge",
    "font.size": FONT,
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than most: labels have room in any other font
    "text.parse_math": False,  # a $ is a $
    "text.color": svg.INK,
    "axes.edgecolor": svg.MUTED,
    "axes.labelcolor": svg.INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": svg.LINE,
    "grid.linewidth": 0.6,
    "xtick.color": svg.MUTED,
    "ytick.color": svg.MUTED,
    "xtick.labelcolor": svg.INK,
    "ytick.labelcolor": svg.INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


class Numbers:
    """The number, label, colour and mark of each point. Points of equal kind share colour and mark."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.of = {point.name: number for number, point in enumerate(points, 1)}
        names = [point.name for point in points if point.speed] if len(points) > 2 else []
        shared = commonprefix(names)  # noqa: RUF071  # of characters is what is meant
        self._left_out = shared[: shared.rfind("-") + 1]  # such as the model's name
        kinds = list(dict.fromkeys(point.kind for point in points if point.kind))
        self.kinds = {kind: (svg.SERIES[i % len(svg.SERIES)], MARKS[i % len(MARKS)]) for i, kind in enumerate(kinds)}

    def label(self, point: Point) -> str:
        """Its name without what all names start with, or its number if that is long."""
        name = point.name.removeprefix(self._left_out)
        return name if len(name) <= LONGEST else str(self.of[point.name])

    def style(self, point: Point) -> tuple[str, str]:
        """Its colour and its mark."""
        return self.kinds[point.kind]


def drawn(
    draw: Callable[[Any, Any], None],
    name: str,
    title: str,
    description: str,
    points: Sequence[Point] = (),
    numbers: Numbers | None = None,
    hints: Mapping[str, str] | None = None,
    height: float = SIZE[1],
) -> str:
    """The SVG of what `draw` makes of a figure and its axes, with a legend of the kinds of `points`.

    name: starts all ids. title, description: for those who do not see it. hints: by name of a point, what a pointer
    that rests on its mark shows. height: in inches.
    """
    import matplotlib as mpl  # half a second
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained", dpi=72)
        axes = figure.subplots()
        kinds = list(dict.fromkeys(point.kind for point in points))
        looks = [(kind, *numbers.kinds[kind]) for kind in kinds] if numbers else []
        handles = [
            Line2D([], [], color=colour, marker=shape, linestyle="", markersize=MARK, label=kind)
            for kind, colour, shape in looks
        ]
        if handles:
            widest = max(map(len, kinds))
            columns = max(1, min(len(kinds), 50 // (widest + 5)))
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9, handletextpad=0.2)
        draw(figure, axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    of_marks = {gid(each, numbers): hint for each, hint in (hints or {}).items()} if numbers else {}
    return svg.inline(text.getvalue(), name, title, description, of_marks)


def mark(axes: Any, point: Point, x: float, y: float, numbers: Numbers) -> None:
    """Mark a point, hollow where it is not verified."""
    colour, shape = numbers.style(point)
    axes.plot(
        [x], [y], marker=shape, color=colour, markersize=MARK, markeredgewidth=1.2, linestyle="", zorder=4,
        markerfacecolor=colour if point.state == VERIFIED else svg.PAGE, gid=gid(point.name, numbers), clip_on=False,
    )  # fmt: skip


def label(
    figure: Any,
    axes: Any,
    points: Sequence[Point],
    spots: Sequence[tuple[float, float]],
    named: set[str],
    numbers: Numbers,
    others: bool = False,
    sides: labels.Sides = labels.RIGHT_FIRST,
) -> None:
    """Write labels beside the points of `named`, on the first of `sides` that is free, with a line where they are not
    close; numbers beside others if asked for, where there is room."""
    figure.draw_without_rendering()  # settles where the axes are
    pixels = [axes.transData.transform(spot) for spot in spots]
    marks = [labels.around(x, y, MARK + 2) for x, y in pixels]
    extent = axes.get_window_extent()
    frame, taken = Box(extent.x0, extent.y0, extent.x1 + 4, extent.y1 + 8), list(marks)
    order = sorted(range(len(points)), key=lambda i: (points[i].name not in named, numbers.of[points[i].name]))
    for i in order:
        first = points[i].name in named
        if not first and not others:
            continue
        text, size = (numbers.label(points[i]), FONT) if first else (str(numbers.of[points[i].name]), SMALL)
        written = figure.text(0, 0, text, fontsize=size)
        box = written.get_window_extent()
        written.remove()
        reach = labels.DISTANCES[-1] if first else labels.DISTANCES[0]
        found = labels.place(
            marks[i], box.width, box.height, taken, frame, reach, sides if first else labels.RIGHT_FIRST
        )
        if found is None:
            continue
        taken.append(found)
        far = first and not found.overlaps(labels.around(float(pixels[i][0]), float(pixels[i][1]), 2.5 * MARK))
        line = {"arrowstyle": "-", "color": svg.MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": MARK / 2}
        axes.annotate(
            text, spots[i], (found.left, (found.bottom + found.top) / 2), textcoords="figure pixels",
            va="center", ha="left", fontsize=size, color=svg.INK if first else svg.MUTED,
            arrowprops=line if far else None, annotation_clip=False, zorder=5,
        ).set_in_layout(False)  # fmt: skip  # the axes stay where they were when the places were found


def label_ends(figure: Any, axes: Any, ends: dict[str, tuple[float, float]]) -> None:
    """Write names to the right of where lines end, one above the other, each with a line to its own."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    pixels = {name: axes.transData.transform(end) for name, end in ends.items()}
    pixels = {name: (x, min(max(y, frame.y0), frame.y1)) for name, (x, y) in pixels.items()}
    order = sorted(pixels, key=lambda name: float(pixels[name][1]))
    heights = labels.spread([float(pixels[name][1]) for name in order], FONT * 1.3, frame.y0, frame.y1)
    left = max(x for x, _ in pixels.values()) + 0.05 * frame.width
    for name, height in zip(order, heights, strict=True):
        line = {"arrowstyle": "-", "color": svg.MUTED, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        axes.annotate(
            name, pixels[name], (left, height), xycoords="figure pixels", textcoords="figure pixels",
            va="center", ha="left", arrowprops=line, annotation_clip=False,
        ).set_in_layout(False)  # fmt: skip  # as above


def scale(axes: Any, values: Sequence[float], room: float = 1.15) -> None:
    """A y axis for the values: logarithmic where they differ much, else from 0. room: how far it reaches above them."""
    from matplotlib.ticker import LogLocator

    low, high = min(values), max(values)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    if low > 0 and high / low > 8:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.set_ylim(low / 1.5, high * 1.6)
    else:
        axes.set_ylim(0, room * high)


def gid(name: str, numbers: Numbers) -> str:
    """What an artist of a point is called."""
    return f"point{numbers.of[name]}"
