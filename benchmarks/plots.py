"""Two pictures of the rows: decode speed against perplexity, and decode time against the allocated cache."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import inf
from pathlib import Path
from typing import Any

from benchmarks.systems import GROWING, OURS, PEERS
from pipeline.reporting.plots.labels import spread

Row = dict[str, Any]
Label = tuple[float, float, str, str]  # x and y of what it names, text and color
SPEED_AT = (1, 128)  # batch and prompt of the first picture
CACHE_AT = (1, 100)  # of the second
FONT_SIZE = 8  # points
LINE = 14  # pixels from one label to the next at 100 dots an inch, as figures are while they are drawn
ASIDE = 0.03  # from a point to its label, as a share of the picture's width


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the pictures that the rows suffice for; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in rows if row["decode_tok_s"] is not None]
    made = []
    for name, picture in (("speed_perplexity.png", _speed), ("time_cache.png", _time)):
        figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained", dpi=100)
        labels = picture(measured, axes)
        if labels:
            _write(figure, axes, labels)
            figure.savefig(folder / name, dpi=120)
            made.append(folder / name)
        pyplot.close(figure)
    return made


def _speed(rows: Sequence[Row], axes: Any) -> list[Label]:
    """Up and to the left is better."""
    labels: list[Label] = []
    for row in rows:
        if (row["batch"], row["prompt"]) == SPEED_AT and row["perplexity"]:
            ours = row["system"] == OURS
            at = row["perplexity"], row["decode_tok_s"]
            points = axes.scatter(*at, marker="*" if ours else "o", s=120 if ours else 40)
            labels.append((*at, f"{row['point'] or row['system']} {row['precision']}", points.get_facecolor()[0]))
    axes.set_yscale("log", base=2)
    axes.set(xlabel="perplexity (lower is better)", ylabel="decode, tokens/s (higher is better)")
    axes.set_title(f"SmolLM2-135M-Instruct, batch {SPEED_AT[0]}, prompt {SPEED_AT[1]}")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.3 * (high - low))
    return labels


def _time(rows: Sequence[Row], axes: Any) -> list[Label]:
    """A line for each system that was measured with two sizes or more, a level for those whose cache grows."""
    lines: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    growing = {peer.name for peer in PEERS if peer.cache == GROWING}
    for row in rows:
        if (row["batch"], row["prompt"]) == CACHE_AT:
            lines[row["system"], row["precision"]][row["cache"]] = 1e3 / row["decode_tok_s"]
    every = sorted({size for points in lines.values() for size in points})
    if len(every) < 2:
        return []
    smallest, largest = every[0], every[-1]
    labels: list[Label] = []
    for (system, precision), points in lines.items():
        sizes, times = zip(*sorted(points.items()), strict=True)
        if system in growing:
            axes.plot([smallest, largest], [times[0]] * 2, linestyle=":", color="grey")
            labels.append((largest, times[0], f"{system} {precision} (grows)", "grey"))
        elif len(points) > 1:
            (line,) = axes.plot(sizes, times, "*-" if system == OURS else "o-")
            labels.append((sizes[-1], times[-1], f"{system} {precision}", line.get_color()))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="allocated cache, slots", ylabel="one decode step, ms (lower is better)")
    axes.set_title(f"100 to 132 slots in use, batch {CACHE_AT[0]}")
    axes.set_xticks(every, [f"{size:,}" for size in every])
    axes.set_xlim(smallest / 1.2, largest * 5)
    return labels


def _write(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Write each label to the right of its point, at its height or as near as others allow, with a line between.

    Raises ValueError should two labels cover each other, or one leave the picture.
    """
    from matplotlib.text import Text

    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # settles where the axes are
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    left, right = axes.get_xlim()
    for column in _columns(labels, ASIDE * 2 * (right - left)):
        pixels = [float(to_pixels.transform(label[:2])[1]) for label in column]
        x = max(label[0] for label in column)
        aside = float(to_data.transform((to_pixels.transform((x, 1))[0] + ASIDE * axes.bbox.width, 0))[0])
        for (from_x, y, text, color), height in zip(column, spread(pixels, LINE, -inf, inf), strict=True):
            beside = float(to_data.transform((0, height))[1])
            axes.annotate(
                text, (from_x, y), (aside, beside), fontsize=FONT_SIZE, va="center",
                arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkB": 0, "relpos": (0, 0.5)},
            )  # fmt: skip
    figure.draw_without_rendering()
    frame = axes.bbox
    extents = {text.get_text(): Text.get_window_extent(text) for text in axes.texts}  # without their lines
    bad = [f"{one} and {other}" for one, other in combinations(extents, 2) if extents[one].overlaps(extents[other])]
    bad += [name for name, box in extents.items() if box.x1 > frame.x1 or box.y1 > frame.y1 or box.y0 < frame.y0]
    if bad:
        raise ValueError(f"labels that cover each other or leave the picture: {', '.join(bad)}")


def _columns(labels: Sequence[Label], near: float) -> list[list[Label]]:
    """Labels of points that are within `near` of the next in x, each column from the lowest point to the highest."""
    columns: list[list[Label]] = []
    for label in sorted(labels, key=lambda label: label[0]):
        if columns and label[0] - columns[-1][-1][0] <= near:
            columns[-1].append(label)
        else:
            columns.append([label])
    return [sorted(column, key=lambda label: label[1]) for column in columns]
