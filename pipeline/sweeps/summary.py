"""The table at the end of a build: the size, speed and quality of each point's engine."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.config import points
from pipeline.core import layout

FIGURES = {  # heading: figure of bench.json, or of the engine in accuracy.json, and its form
    "size": ("model_mb", "{:.0f} MB"),
    "prefill": ("prefill_s", "{:.3f} s"),
    "decode": ("decode_tok_s", "{:.1f} tok/s"),
    "perplexity": ("perplexity", "{:.3f}"),
    "mean KL": ("mean_kl", "{:.1e}"),
}


def summary(names: Iterable[str], failed: Mapping[str, str]) -> Iterator[str]:
    """Return a table of points, from their reports; below it what could not run on this machine, and which points
    failed. failed: point -> why."""
    names = list(names)
    rows = [["point", "", *FIGURES], *(_row(name, name in failed) for name in names)]
    yield from aligned(rows)
    for name in names:
        if name in failed:
            yield f"{name}: failed in {failed[name]}"
        else:
            for artifact, reason in _skipped(name).items():
                yield f"{name}: {artifact} was not run: {reason}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return a line for each row of a table, with its cells below those of the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def report(name: str, file: str) -> dict[str, Any]:
    """Read a report of a point; an empty one where there is none."""
    path = points.ARTIFACTS / name / file
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _row(name: str, failed: bool) -> list[str]:
    if failed:
        return [name, "FAILED", *["-"] * len(FIGURES)]  # the reports may be of an earlier build
    accuracy = report(name, layout.ACCURACY)
    found = report(name, layout.BENCH) | accuracy.get(layout.ENGINE, {})
    state = "not run" if layout.ENGINE in _skipped(name) else "verified" if accuracy else "built"
    return [name, state, *(form.format(found[key]) if key in found else "-" for key, form in FIGURES.values())]


def _skipped(name: str) -> dict[str, str]:
    skipped: dict[str, str] = report(name, layout.VERIFY).get("skipped", {})
    return skipped
