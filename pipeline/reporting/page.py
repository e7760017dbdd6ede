"""The report as one HTML page that loads nothing: style, plots and script are in it."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

from pipeline.reporting import choose, forms
from pipeline.reporting.plots import figures
from pipeline.reporting.plots.canvas import Numbers
from pipeline.reporting.plots.figures import Plot
from pipeline.reporting.records import (
    FAILED,
    NOT_RUN,
    OUTDATED,
    UNBUILT,
    UNFINISHED,
    VERIFIED,
    Artifact,
    Operators,
    Point,
    Report,
)

HERE = Path(__file__).parent
SIGNS = {VERIFIED: "✓", NOT_RUN: "◐", OUTDATED: "↻", UNFINISHED: "…", UNBUILT: "○", FAILED: "✗"}
METRICS = {  # of verify, and what each is
    "logits_error": "largest error of a logit, in standard deviations",
    "kl": "KL divergence of the next token, nats",
    "cache_error": "largest relative error in the cache",
    "greedy_agreement": "greedy tokens equal to the original's",
    "repetition": "repetition of the text",
    "added_repetition": "repetition beyond the original's",
    "perplexity": "perplexity",
    "perplexity_original": "perplexity of the original",
    "predicted_tokens": "predicted tokens",
    "perplexity_increase": "relative increase of perplexity",
    "mean_kl": "mean KL divergence over a text, nats",
    "top1": "same most probable token over a text",
}
PLOTS = 30  # of a page: a plot has some 10 KB, and those of more models hide what is compared
MOST_OPERATORS = 10  # of an artifact that have a row of their own


def render(report: Report) -> str:
    """The page."""
    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "share", "change", "seconds", "size", "megabytes")
    environment.filters |= {name: getattr(forms, name) for name in names}
    style, script = (_shortened((HERE / name).read_text(encoding="utf-8")) for name in ("page.css", "page.js"))
    numbers = Numbers(report.points)
    drawn, by_model = list(plots(report, numbers)), Counter(point.model for point in report.points if point.speed)
    return environment.get_template("page.html.j2").render(
        report=report,
        several_models=len({comparison.model for comparison in report.comparisons}) > 1,
        states=Counter(point.state for point in report.points),
        signs=SIGNS,
        metrics=METRICS,
        allowed=100 * choose.ALLOWED,
        same_speed=100 * choose.SAME_SPEED,
        numbers=numbers.of,
        by_name={point.name: point for point in report.points},
        plots=drawn,
        without_plots=sum(count > 1 for model, count in by_model.items() if model not in dict(drawn)),
        front={name for comparison in report.comparisons for name in comparison.front},
        chosen={comparison.chosen for comparison in report.comparisons},
        troubled=[point for point in report.points if point.state != VERIFIED],
        same={part: first_with_equal(report.points, part) for part in ("operators", "texts")},
        case_names=case_names,
        operator_rows=operator_rows,
        style=style,
        script=script,
        policy=_policy(script),
    )


def plots(report: Report, numbers: Numbers) -> Iterator[tuple[str, list[Plot]]]:
    """The plots of each model that has several points, or is the only one; by model, PLOTS or a few more."""
    models = dict.fromkeys(comparison.model for comparison in report.comparisons)
    count = 0
    for index, model in enumerate(models):
        points = [point for point in report.points if point.model == model]
        if count >= PLOTS or (len(points) < 2 and len(models) > 1):
            continue
        own = [comparison for comparison in report.comparisons if comparison.model == model]
        front = [name for comparison in own for name in (*comparison.front, comparison.chosen) if name]
        compared = [each for each in own if len(each.points) > 1]
        drawn: list[Plot | None] = [
            figures.quality(f"quality-{index}-{i}", each, [p for p in points if p.name in each.points], numbers)
            for i, each in enumerate(compared)
        ]
        drawn.append(figures.context(f"context-{index}", points, front, numbers))
        for key, label in (("cache.size", "slots of the cache"), ("bench.batch", "rows")):
            name = f"{key.replace('.', '-')}-{index}"
            drawn.append(figures.against(name, key, label, points, front, numbers))
        drawn.append(figures.memory(f"memory-{index}", points, front, numbers))
        shown = [plot for plot in drawn if plot is not None]
        count += len(shown)
        if shown:
            yield model, shown


def first_with_equal(points: Sequence[Point], part: str) -> dict[str, str]:
    """The first point whose `part` equals a point's own, by the latter's name: equal parts are shown once."""
    seen: dict[str, str] = {}
    return {point.name: seen.setdefault(repr(getattr(point, part)), point.name) for point in points}


def case_names(artifacts: Sequence[Artifact]) -> list[str]:
    """The cases of all artifacts, each once, in the order of the artifact that has most."""
    ordered = sorted(artifacts, key=lambda artifact: -len(artifact.cases))
    return list(dict.fromkeys(case.name for artifact in ordered for case in artifact.cases))


def operator_rows(found: Sequence[Operators]) -> list[tuple[str, list[int]]]:
    """Operators with their number in each artifact: the most frequent of each artifact, then all others as one row."""
    counts = [each.counts for each in found]
    frequent = {name for each in counts for name in list(each)[:MOST_OPERATORS]}
    ordered = sorted(frequent, key=lambda name: (-max(_of(name, counts)), name))
    rows = [(name, _of(name, counts)) for name in ordered]
    if others := {name for each in counts for name in each} - frequent:
        sums = [sum(each.get(name, 0) for name in others) for each in counts]
        rows.append((f"{len(others)} other operators", sums))
    return rows


def _of(name: str, counts: Sequence[dict[str, int]]) -> list[int]:
    return [each.get(name, 0) for each in counts]


def _policy(script: str) -> str:
    """The page's content security policy: nothing is loaded, and only its own script runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _shortened(text: str) -> str:
    """Without the spaces at the start of lines."""
    return "\n".join(filter(None, (line.strip() for line in text.splitlines())))
