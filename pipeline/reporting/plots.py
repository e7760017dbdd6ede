"""The plots of the report, as inline SVG: each shows points of one model."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from os.path import commonprefix
from statistics import median
from typing import Any

from pipeline.reporting import labels, svg
from pipeline.reporting.choose import ALLOWED, loss, speed
from pipeline.reporting.labels import Box
from pipeline.reporting.records import VERIFIED, Comparison, Point

SIZE = (5.0, 3.9)  # inches of 72 units: text has its own size on a phone that is 360 pixels wide
BAR = 0.2  # inches of a bar of the memory plot
FONT, SMALL = 10, 8.5  # units
MARKS = ("o", "s", "^", "D", "v", "P", "X", "p")
MARK = 7.0  # units across
NAMED = 8  # lines that are named at their end
LONGEST = 18  # characters of a name in a plot; a longer one is its number there
STYLE: Any = {  # Any: matplotlib has a type with every key
    "svg.fonttype": "none",
    "svg.hashsalt": "kvforge",
    "font.size": FONT,
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than most: labels have room in any other font
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


@dataclass(frozen=True)
class Plot:
    """A plot: its heading, what to look for, and the SVG."""

    title: str
    caption: str
    svg: str


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


def quality(name: str, comparison: Comparison, points: Sequence[Point], numbers: Numbers) -> Plot:
    """Decode speed against the loss of quality, with the front; points: of the comparison, one or more."""
    front = [next(point for point in points if point.name == each) for each in comparison.front]
    title = f"Decode speed against quality, {_rows(comparison.batch)}, prompt of {comparison.prompt} tokens"
    caption = (
        f"Up and to the left is better. The shaded band is within {100 * ALLOWED:g} % of the original's perplexity. "
        "The line is the Pareto front. Numbers are those of the table; hollow points are not verified."
    )

    def draw(figure: Any, axes: Any) -> None:
        spots = [(100 * loss(point), speed(point)) for point in points]
        axes.set_xscale("symlog", linthresh=0.1, linscale=0.6)
        axes.set_xlim(-0.02, max(2.0, *(2 * x for x, _ in spots)))
        _scale(axes, [y for _, y in spots])
        axes.axvspan(-0.02, 100 * ALLOWED, color=svg.GOOD, alpha=0.12, linewidth=0)
        ticks = [tick for tick in (0, 0.1, 1, 10, 100, 1000) if tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
        axes.set(xlabel="difference of perplexity from the original", ylabel="new tokens per second")
        if front:
            line = [(100 * loss(point), speed(point)) for point in reversed(front)]
            axes.plot(*zip(*line, strict=True), color=svg.MUTED, linewidth=1, drawstyle="steps-post", zorder=1)
        for point, (x, y) in zip(points, spots, strict=True):
            _mark(axes, point, x, y, numbers)
        _label(figure, axes, points, spots, {*comparison.front, comparison.chosen or ""}, numbers, others=True)

    described = f"{len(points)} points. On the front: " + (
        "; ".join(f"{each.name}, {speed(each):,.1f} tokens/s, {100 * loss(each):.2f} %" for each in front) or "none"
    )
    hints = {_gid(p, numbers): f"{p.name}: {speed(p):,.1f} tokens/s, {100 * loss(p):.2f} %" for p in points}
    return Plot(title, caption, _svg(name, title, described, hints, draw, points, numbers))


def context(name: str, points: Sequence[Point], front: Sequence[str], numbers: Numbers) -> Plot | None:
    """The time of decode steps against the tokens in the cache, a line for each point."""
    shown = [point for point in points if point.speed and len(point.speed.steps) > 1]
    if not shown:
        return None
    title = "Time of a decode step against tokens in the cache"
    caption = (
        "Lower is better; a level line does not slow down as the text grows. Steps of one run, each the median of it "
        "and its neighbours."
    )
    named = ([point for point in shown if point.name in front] or shown)[:NAMED]

    def draw(figure: Any, axes: Any) -> None:
        for point in shown:
            assert point.speed
            colour, mark = numbers.style(point)
            looks: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.5, "zorder": 2}
            if point in named:
                looks = {"linewidth": 1.5, "marker": mark, "markersize": 5, "zorder": 3}
                looks["markevery"] = (0, len(point.speed.steps) - 1)
            axes.plot(*zip(*smooth(point.speed.steps), strict=True), color=colour, gid=_gid(point, numbers), **looks)
        _scale(axes, [point.speed.step_ms for point in shown if point.speed], room=1.5)
        axes.set(xlabel="tokens in the cache", ylabel="ms per step")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + 0.45 * (high - low))
        _at_line_ends(figure, axes, {numbers.label(p): smooth(p.speed.steps)[-1] for p in named if p.speed})

    lines = [f"{p.name}: {p.speed.steps[0][1]:.3g} to {p.speed.steps[-1][1]:.3g} ms" for p in named if p.speed]
    described = f"{len(shown)} lines. {'; '.join(lines)}"
    hints = {_gid(p, numbers): f"{p.name}: median {p.speed.step_ms:.3g} ms" for p in shown if p.speed}
    return Plot(title, caption, _svg(name, title, described, hints, draw, shown, numbers))


def against(
    name: str, key: str, label: str, points: Sequence[Point], front: Sequence[str], numbers: Numbers
) -> Plot | None:
    """The time of a decode step against a number among the settings; lines join points that are equal otherwise."""
    shown = [point for point in points if point.speed]
    if len({point.settings[key] for point in shown}) < 2:
        return None
    title = f"Time of a decode step against {label}"
    caption = f"The median step. Lines join points whose settings differ in {key} alone."
    alike: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for point in sorted(shown, key=lambda point: point.settings[key]):
        others = {other: value for other, value in point.settings.items() if other != key}
        alike.setdefault(tuple((other, str(value)) for other, value in others.items()), []).append(point)

    def draw(figure: Any, axes: Any) -> None:
        spots = {point.name: (point.settings[key], point.speed.step_ms) for point in shown if point.speed}
        axes.set_xscale("log", base=2)
        _scale(axes, [ms for _, ms in spots.values()])
        for group in alike.values():
            if len(group) > 1:
                line = zip(*(spots[point.name] for point in group), strict=True)
                axes.plot(*line, color=numbers.style(group[0])[0], linewidth=1, alpha=0.7)
        for point in shown:
            _mark(axes, point, *spots[point.name], numbers)
        ticks = sorted({x for x, _ in spots.values()})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3 ** (1 + len(ticks)))
        axes.set(xlabel=label, ylabel="ms per step")
        _label(figure, axes, shown, [spots[point.name] for point in shown], set(front), numbers)

    lines = [
        f"{value:,}: {min(ms):.3g} to {max(ms):.3g} ms"
        for value, group in groupby(sorted(shown, key=lambda p: p.settings[key]), key=lambda p: p.settings[key])
        if (ms := [point.speed.step_ms for point in group if point.speed])
    ]
    hints = {_gid(p, numbers): f"{p.name}: {p.settings[key]:,}, {p.speed.step_ms:.3g} ms" for p in shown if p.speed}
    return Plot(title, caption, _svg(name, title, "; ".join(lines), hints, draw, shown, numbers))


def memory(name: str, points: Sequence[Point], numbers: Numbers) -> Plot | None:
    """What a process with the engine takes: its model, its cache and the rest, a bar for each point."""
    shown = sorted(
        (point for point in points if point.speed), key=lambda point: point.speed.peak_mb if point.speed else 0.0
    )
    if not shown:
        return None
    title = "Memory of the process that measures the engine"
    caption = (
        "Peak memory in MB: the engine's files, the cache of its rows, and the rest (libraries, activations, copies). "
        "Weights that are mapped and not read, or packed into fewer bytes, make the files larger than their share."
    )
    parts = [memory_parts(point) for point in shown]

    def draw(figure: Any, axes: Any) -> None:
        places = range(len(shown))
        starts = [0.0] * len(shown)
        looks = (("engine files", svg.SERIES[0], None), ("cache", svg.SERIES[1], "////"), ("rest", svg.LINE, None))
        for (label, colour, hatch), sizes in zip(looks, zip(*parts, strict=True), strict=True):
            axes.barh(
                places, sizes, left=starts, color=colour, height=0.72, label=label, hatch=hatch,
                edgecolor=svg.PAGE, linewidth=0.4,
            )  # fmt: skip
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        for place, total in zip(places, starts, strict=True):
            axes.annotate(
                f"{total:,.0f}", (total, place), (3, 0), textcoords="offset points", va="center", fontsize=SMALL
            )
        axes.set_yticks(places, [_with_number(point, numbers) for point in shown], fontsize=SMALL)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlim(0, 1.1 * max(starts))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MB")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9)

    described = "; ".join(f"{point.name}: {sum(part):,.0f} MB" for point, part in zip(shown, parts, strict=True))
    height = max(2.0, 1.0 + BAR * len(shown))
    return Plot(title, caption, _svg(name, title, described, {}, draw, (), numbers, height))


def smooth(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each step's time as the median of its own and its neighbours': without single ones that the system delayed."""
    times = [ms for _, ms in steps]
    return [(x, median(times[max(0, i - 1) : i + 2])) for i, (x, _) in enumerate(steps)]


def memory_parts(point: Point) -> tuple[float, float, float]:
    """MB of a point's engine files, of the cache of its rows, and of the rest, which add up to the peak."""
    if point.speed is None:
        return 0.0, 0.0, 0.0
    peak = point.speed.peak_mb
    files = min(point.speed.model_mb, peak)
    cache = min((point.cache_mb or 0.0) * point.settings["bench.batch"], peak - files)
    return files, cache, peak - files - cache


def _svg(
    name: str,
    title: str,
    description: str,
    hints: dict[str, str],
    draw: Callable[[Any, Any], None],
    points: Sequence[Point],
    numbers: Numbers,
    height: float = SIZE[1],
) -> str:
    """Draw a figure, with a legend of the kinds of `points`."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    with mpl.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(SIZE[0], height), layout="constrained", dpi=72)
        kinds = list(dict.fromkeys(point.kind for point in points))
        looks = [(kind, *numbers.kinds[kind]) for kind in kinds]
        handles = [
            Line2D([], [], color=colour, marker=mark, linestyle="", markersize=MARK, label=kind)
            for kind, colour, mark in looks
        ]
        if handles:
            widest = max(map(len, kinds))
            columns = max(1, min(len(kinds), 50 // (widest + 5)))
            figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9, handletextpad=0.2)
        draw(figure, axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    return svg.inline(text.getvalue(), name, title, description, hints)


def _mark(axes: Any, point: Point, x: float, y: float, numbers: Numbers) -> None:
    colour, mark = numbers.style(point)
    axes.plot(
        [x], [y], marker=mark, color=colour, markersize=MARK, markeredgewidth=1.2, linestyle="", zorder=4,
        markerfacecolor=colour if point.state == VERIFIED else svg.PAGE, gid=_gid(point, numbers), clip_on=False,
    )  # fmt: skip


def _label(
    figure: Any,
    axes: Any,
    points: Sequence[Point],
    spots: Sequence[tuple[float, float]],
    named: set[str],
    numbers: Numbers,
    others: bool = False,
) -> None:
    """Write labels beside the points of `named`, with a line where they are not close; numbers beside others if asked
    for, where there is room."""
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
        label, size = (numbers.label(points[i]), FONT) if first else (str(numbers.of[points[i].name]), SMALL)
        text = figure.text(0, 0, label, fontsize=size)
        box = text.get_window_extent()
        text.remove()
        reach = labels.DISTANCES[-1] if first else labels.DISTANCES[0]
        (found,) = labels.place([(marks[i], box.width, box.height)], taken, frame, reach)
        if found is None:
            continue
        taken.append(found)
        far = first and not found.overlaps(labels.around(float(pixels[i][0]), float(pixels[i][1]), 2.5 * MARK))
        line = {"arrowstyle": "-", "color": svg.MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": MARK / 2}
        axes.annotate(
            label, spots[i], (found.left, (found.bottom + found.top) / 2), textcoords="figure pixels",
            va="center", ha="left", fontsize=size, color=svg.INK if first else svg.MUTED,
            arrowprops=line if far else None, annotation_clip=False, zorder=5,
        ).set_in_layout(False)  # fmt: skip  # the axes stay where they were when the places were found


def _at_line_ends(figure: Any, axes: Any, ends: dict[str, tuple[float, float]]) -> None:
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


def _scale(axes: Any, values: Sequence[float], room: float = 1.15) -> None:
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


def _gid(point: Point, numbers: Numbers) -> str:
    return f"point{numbers.of[point.name]}"


def _with_number(point: Point, numbers: Numbers) -> str:
    label, number = numbers.label(point), str(numbers.of[point.name])
    return label if label == number else f"{label}  {number}"


def _rows(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch} rows"
