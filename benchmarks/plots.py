"""Two pictures of the rows: decode speed against perplexity, and decode time against the allocated cache."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.systems import GROWING, OURS, PEERS

Row = dict[str, Any]
SPEED_AT = (1, 128)  # batch and prompt of the first picture
CACHE_AT = (1, 100)  # of the second


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write the pictures that the rows suffice for; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in rows if row["decode_tok_s"] is not None]
    made = []
    for name, picture in (("speed_perplexity.png", _speed), ("time_cache.png", _time)):
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        if picture(measured, axes):
            figure.savefig(folder / name, dpi=120)
            made.append(folder / name)
        pyplot.close(figure)
    return made


def _label(row: Row) -> str:
    return f"{row['point'] or row['system']} {row['precision']}"


def _speed(rows: Sequence[Row], axes: Any) -> bool:
    """Up and to the left is better."""
    rows = [r for r in rows if (r["batch"], r["prompt"]) == SPEED_AT and r["perplexity"]]
    for row in rows:
        ours = row["system"] == OURS
        axes.scatter(row["perplexity"], row["decode_tok_s"], marker="*" if ours else "o", s=120 if ours else 40)
        axes.annotate(
            _label(row), (row["perplexity"], row["decode_tok_s"]), xytext=(6, 3), textcoords="offset points", fontsize=8
        )
    axes.set(xlabel="perplexity (lower is better)", ylabel="decode, tokens/s (higher is better)")
    axes.set_title(f"SmolLM2-135M-Instruct, batch {SPEED_AT[0]}, prompt {SPEED_AT[1]}")
    axes.margins(x=0.25)
    axes.grid(alpha=0.3)
    return bool(rows)


def _time(rows: Sequence[Row], axes: Any) -> bool:
    """A line for each system that was measured with two sizes or more, a level for those whose cache grows."""
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    growing = {peer.name for peer in PEERS if peer.cache == GROWING}
    for row in rows:
        if (row["batch"], row["prompt"]) == CACHE_AT:
            lines[f"{row['system']} {row['precision']}"][row["cache"]] = 1e3 / row["decode_tok_s"]
    for label, points in sorted(lines.items(), key=lambda line: -max(line[1].values())):
        if label.rsplit(" ", 1)[0] in growing:
            axes.axhline(next(iter(points.values())), linestyle=":", color="grey", linewidth=1)
            axes.annotate(f"{label} (grows)", (512, next(iter(points.values()))), fontsize=7, va="bottom")
        elif len(points) > 1:
            ours = label.startswith(OURS)
            axes.plot(*zip(*sorted(points.items()), strict=True), "*-" if ours else "o-", label=label)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="allocated cache, slots", ylabel="one decode step, ms (lower is better)", ylim=(0, None))
    axes.set_title(f"100 to 132 slots in use, batch {CACHE_AT[0]}")
    axes.grid(alpha=0.3)
    drawn = any(len(points) > 1 for points in lines.values())
    if drawn:
        axes.legend(fontsize=8)
    return drawn
