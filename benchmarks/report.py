"""From measurements to rows, and from rows to a table: medians, and ratios to the best peer."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from benchmarks.cases import Case
from benchmarks.systems import CLASSES, OURS

Row = dict[str, Any]
# of this project's engines, in MB: a session whose cache is full, that cache, and what is neither cache nor model
MEMORY = ("session_mb", "cache_mb", "overhead_mb")
# Perplexities closer than this are one: rounding activations to 8 bits costs about as much.
SAME = 1.005


def speeds(answers: Sequence[dict[str, Any]], batch: int) -> Row:
    """The figures of one system and case from its rounds: medians over rounds, and over all steps of all rounds."""
    step = median(seconds for answer in answers for seconds in answer["steps_s"])
    return {
        "prefill_s": round(median(answer["prefill_s"] for answer in answers), 5),
        "decode_tok_s": round(batch / step, 2),
        "peak_mb": round(max(answer["peak_mb"] for answer in answers), 1),
        "rounds": len(answers),
    }


def share(weight_bytes: float | None, row: Row, bandwidth: float) -> float | None:
    """Of the machine's read bandwidth, what a row's decode steps use for weights alone."""
    if not weight_bytes or row["decode_tok_s"] is None:
        return None
    return round(weight_bytes * row["decode_tok_s"] / row["batch"] / bandwidth, 3)


def common_start(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts share before they part."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def ratio(row: Row, rows: Iterable[Row], figure: str) -> tuple[float, str] | None:
    """(how many times as fast as the best peer in the same case and precision, that peer); None without one.

    The peers of a precision that no peer has (fp16 on this CPU, int4-exact) are those in fp32.
    """
    others = [r for r in rows if case_of(r) == case_of(row) and r["system"] not in (OURS, row["system"]) and r[figure]]
    same = [r for r in others if _class(r) == _class(row)] or [r for r in others if _class(r) == "fp32"]
    return _best(row, same, figure)


def ratio_to_no_better(row: Row, rows: Iterable[Row], figure: str) -> tuple[float, str] | None:
    """The same, but among all peers, of whatever precision, whose perplexity is no better than the row's."""
    others = [r for r in rows if case_of(r) == case_of(row) and r["system"] not in (OURS, row["system"])]
    known = [r for r in others if r[figure] and r["perplexity"] and row["perplexity"]]
    return _best(row, [r for r in known if r["perplexity"] * SAME >= row["perplexity"]], figure)


def _best(row: Row, others: Sequence[Row], figure: str) -> tuple[float, str] | None:
    if not others or not row[figure]:
        return None
    if figure.endswith("_s") and not figure.endswith("tok_s"):
        best = min(others, key=lambda r: r[figure])
        return best[figure] / row[figure], f"{best['system']} {best['precision']}"
    best = max(others, key=lambda r: r[figure])
    return row[figure] / best[figure], f"{best['system']} {best['precision']}"


def case_of(row: Row) -> tuple[int, int, int]:
    """What a row has in common with those that it is compared with."""
    return row["batch"], row["prompt"], row["cache"]


def _class(row: Row) -> str:
    precision: str = row["precision"]
    return CLASSES.get(precision, precision)


def table(rows: Sequence[Row], threads: int) -> str:
    """Markdown: a table for each case, fastest first, and what is missing with the reason."""
    lines = [
        f"SmolLM2-135M-Instruct, {threads} threads. In brackets: times as fast as the fastest peer of the same",
        "precision (int4-exact, whose products are in fp32: as the fastest in fp32). No better: as the fastest peer of",
        "any precision whose perplexity is no better (0.5 % count as equal). Share: of the bandwidth that memory was",
        "read with before each round of a case (their median), for weights.",
    ]
    measured = [row for row in rows if row["decode_tok_s"] is not None]
    for case in dict.fromkeys(case_of(row) for row in measured):
        batch, prompt, cache = case
        here = [row for row in measured if case_of(row) == case]
        lines += ["", f"### {Case(batch, prompt, 0, cache)}", ""]
        lines += [f"Memory read at {here[0]['read_gb_s']:.1f} GB/s.", ""]
        lines += [
            "| system | precision | decode tokens/s | prefill s | no better | peak MB | model MB | perplexity | share |"
            " build s |"
        ]
        lines += ["|---|---|--:|--:|---|--:|--:|--:|--:|--:|"]
        for row in sorted(here, key=lambda r: -r["decode_tok_s"]):
            figures = [
                _with_ratio(row, here, "decode_tok_s", ".1f"),
                _with_ratio(row, here, "prefill_s", ".3f"),
                _no_better(row, here),
                _number(row["peak_mb"], ".0f"),
                _number(row["model_mb"], ".0f"),
                _number(row["perplexity"], ".2f"),
                _number(row["share_of_bandwidth"], ".0%"),
                _number(row["build_s"], ".0f"),
            ]
            name = f"**{row['point']}**" if row["system"] == OURS else row["system"]
            lines.append(f"| {' | '.join([name, row['precision'], *figures])} |")
    lines += _memory(rows)
    whys = dict.fromkeys(
        f"* {row['point'] or row['system']} {row['precision']}"
        + (f", {Case(row['batch'], row['prompt'], 0, row['cache'])}" if row["batch"] else "")
        + f": {row['why']}"
        for row in rows
        if row.get("why")
    )
    if whys:
        lines += ["", "Missing:", "", *whys]
    return "\n".join(lines) + "\n"


def _with_ratio(row: Row, rows: Sequence[Row], figure: str, form: str) -> str:
    found = ratio(row, rows, figure)
    return _number(row[figure], form) + (f" ({found[0]:.2f})" if found else "")


def _no_better(row: Row, rows: Sequence[Row]) -> str:
    found = ratio_to_no_better(row, rows, "decode_tok_s") if row["system"] == OURS else None
    return f"{found[0]:.2f} ({found[1]})" if found else ""


def _memory(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"* {row['point']} {row['precision']}: {row['session_mb']:.0f} MB = model {row['model_mb']:.0f}"
        f" + cache {row['cache_mb']:.0f} + {row['overhead_mb']:.0f}"
        for row in rows
        if row.get("session_mb")
    ]
    return ["", "Memory of a process with one session whose cache is full:", "", *dict.fromkeys(lines)] if lines else []


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
