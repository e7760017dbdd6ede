"""The plots of the report, as inline SVG: each shows points of one model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from pipeline.reporting.choose import ALLOWED, loss, speed
from pipeline.reporting.plots import canvas, labels, svg
from pipeline.reporting.plots.canvas import Numbers
from pipeline.reporting.records import Comparison, Point

NAMED = 8  # lines that are named at their end
BAR, BARS = 0.2, 20  # inches of a bar of the memory plot, and their largest number


@dataclass(frozen=True)
class Plot:
    """A plot: its heading, what to look for, and the SVG."""

    title: str
    caption: str
    svg: str


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
        canvas.scale(axes, [y for _, y in spots])
        axes.axvspan(-0.02, 100 * ALLOWED, color=svg.GOOD, alpha=0.12, linewidth=0)
        ticks = [tick for tick in (0, 0.1, 1, 10, 100, 1000) if tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
        axes.set(xlabel="difference of perplexity from the original", ylabel="new tokens per second")
        if front:
            line = [(100 * loss(point), speed(point)) for point in reversed(front)]
            axes.plot(*zip(*line, strict=True), color=svg.MUTED, linewidth=1, drawstyle="steps-post", zorder=1)
        for point, (x, y) in zip(points, spots, strict=True):
            canvas.mark(axes, point, x, y, numbers)
        # up and to the left of the front there is neither a point nor the line
        named = {*comparison.front, comparison.chosen or ""}
        canvas.label(figure, axes, points, spots, named, numbers, others=True, sides=labels.LEFT_FIRST)

    described = f"{len(points)} points. On the front: " + (
        "; ".join(f"{each.name}, {speed(each):,.1f} tokens/s, {100 * loss(each):.2f} %" for each in front) or "none"
    )
    hints = {p.name: f"{p.name}: {speed(p):,.1f} tokens/s, {100 * loss(p):.2f} %" for p in points}
    return Plot(title, caption, canvas.drawn(draw, name, title, described, points, numbers, hints))


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
            looks: dict[str, Any] = {"linewidth": 0.7, "alpha": 0.5, "zorder": 2, "color": colour}
            if point in named:
                looks |= {"linewidth": 1.5, "alpha": 1, "zorder": 3, "marker": mark, "markersize": 5}
                looks["markevery"] = (0, len(point.speed.steps) - 1)
            axes.plot(*zip(*smooth(point.speed.steps), strict=True), gid=canvas.gid(point.name, numbers), **looks)
        canvas.scale(axes, [point.speed.step_ms for point in shown if point.speed], room=1.5)
        axes.set(xlabel="tokens in the cache", ylabel="ms per step")
        low, high = axes.get_xlim()
        axes.set_xlim(low, high + (0.08 + 0.022 * max(len(numbers.label(point)) for point in named)) * (high - low))
        canvas.label_ends(figure, axes, {numbers.label(p): smooth(p.speed.steps)[-1] for p in named if p.speed})

    lines = [f"{p.name}: {p.speed.steps[0][1]:.3g} to {p.speed.steps[-1][1]:.3g} ms" for p in named if p.speed]
    described = f"{len(shown)} lines. {'; '.join(lines)}"
    hints = {p.name: f"{p.name}: median {p.speed.step_ms:.3g} ms" for p in shown if p.speed}
    return Plot(title, caption, canvas.drawn(draw, name, title, described, shown, numbers, hints))


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
        canvas.scale(axes, [ms for _, ms in spots.values()])
        for group in alike.values():
            if len(group) > 1:
                line = zip(*(spots[point.name] for point in group), strict=True)
                axes.plot(*line, color=numbers.style(group[0])[0], linewidth=1, alpha=0.7)
        for point in shown:
            canvas.mark(axes, point, *spots[point.name], numbers)
        ticks = sorted({x for x, _ in spots.values()})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3 ** (1 + len(ticks)))
        axes.set(xlabel=label, ylabel="ms per step")
        canvas.label(figure, axes, shown, [spots[point.name] for point in shown], set(front), numbers)

    lines = [
        f"{value:,}: {min(ms):.3g} to {max(ms):.3g} ms"
        for value, group in groupby(sorted(shown, key=lambda p: p.settings[key]), key=lambda p: p.settings[key])
        if (ms := [point.speed.step_ms for point in group if point.speed])
    ]
    hints = {p.name: f"{p.name}: {p.settings[key]:,}, {p.speed.step_ms:.3g} ms" for p in shown if p.speed}
    return Plot(title, caption, canvas.drawn(draw, name, title, "; ".join(lines), shown, numbers, hints))


def memory(name: str, points: Sequence[Point], front: Sequence[str], numbers: Numbers) -> Plot | None:
    """What a process with the engine takes: its model, its cache and the rest, a bar for each point, or for those of
    the front where there are many."""
    measured = [point for point in points if point.speed]
    many = len(measured) > BARS
    chosen = [point for point in measured if point.name in front] or measured if many else measured
    shown = sorted(chosen, key=lambda point: point.speed.peak_mb if point.speed else 0.0)[:BARS]
    if not shown:
        return None
    title = "Memory of the process that measures the engine"
    caption = "Its peak in MB: the engine's files, the cache of its rows, and the rest."
    caption += " Of points on a Pareto front; the table has all." if many else ""
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
                f"{total:,.0f}", (total, place), (3, 0), textcoords="offset points", va="center", fontsize=canvas.SMALL
            )
        axes.set_yticks(places, [_with_number(point, numbers) for point in shown], fontsize=canvas.SMALL)
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlim(0, 1.1 * max(starts))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MB")
        figure.legend(loc="outside upper left", ncols=3, fontsize=9)

    described = "; ".join(f"{point.name}: {sum(part):,.0f} MB" for point, part in zip(shown, parts, strict=True))
    height = max(2.0, 1.0 + BAR * len(shown))
    return Plot(title, caption, canvas.drawn(draw, name, title, described, height=height))


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


def _with_number(point: Point, numbers: Numbers) -> str:
    label, number = numbers.label(point), str(numbers.of[point.name])
    return label if label == number else f"{label}  {number}"


def _rows(batch: int) -> str:
    return "one row" if batch == 1 else f"{batch} rows"
