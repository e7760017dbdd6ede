"""verify.json as records: each artifact in each case, and how much of its gates it uses."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.reporting.records import Artifact, Case, Figures, Gate, Text, Worst

HIGHER = {"greedy_agreement", "top1"}  # gated metrics of which more is better, 1 at best
NOT_FIGURES = {"passed", "failures", "widened", "dropped", "traceback", "not_run"}  # of a case


def share(metric: str, value: float, gate: float) -> float | None:
    """How much of a gate a value uses: 0 is perfect, 1 the gate. None where a gate that allows nothing is missed."""
    used, allowed = (1 - value, 1 - gate) if metric in HIGHER else (value, gate)
    if used <= 0:
        return 0.0
    return used / allowed if allowed > 0 else None


def artifacts(report: Mapping[str, Any]) -> tuple[Artifact, ...]:
    """The artifacts in the order of the stages."""
    return tuple(_artifact(name, cases, report) for name, cases in report.get("artifacts", {}).items())


def failures(found: tuple[Artifact, ...]) -> Iterator[str]:
    """The first failure of each case that failed, with its artifact and case."""
    for artifact in found:
        for case in artifact.cases:
            if case.failures:
                yield f"artifact {artifact.name}, case {case.name}: {case.failures[0]}"


def texts(report: Mapping[str, Any]) -> tuple[Text, ...]:
    """What the engine writes after the prompts."""
    return tuple(Text(each["prompt"], each["text"], each.get("original")) for each in report.get("texts", ()))


def _artifact(name: str, cases: Mapping[str, Any], report: Mapping[str, Any]) -> Artifact:
    gates = {metric: Gate(**gate) for metric, gate in report.get("limits", {}).get(name, {}).items()}
    found = tuple(_case(case, raw, gates) for case, raw in cases.items())
    skipped = report.get("skipped", {}).get(name, "")
    return Artifact(name, all(case.passed for case in found), skipped, gates, _worst(found, gates), found)


def _case(name: str, raw: Mapping[str, Any], gates: Mapping[str, Gate]) -> Case:
    if "not_run" in raw:
        return Case(name, True, not_run=raw["not_run"])
    figures = {key: value for key, value in raw.items() if key not in NOT_FIGURES and isinstance(value, int | float)}
    widened: Figures = {key: value for key, value in raw.get("widened", {}).items() if isinstance(value, int | float)}
    # a gate that was widened is the wider one: the share is of what let the case pass or fail
    limits = {metric: widened.get(metric, gate.value) for metric, gate in gates.items()}
    shares = {metric: share(metric, figures[metric], limits[metric]) for metric in limits if metric in figures}
    tightest = max(shares, key=lambda metric: _order(shares[metric]), default="")
    return Case(
        name, bool(raw["passed"]), figures, tightest, shares.get(tightest), widened, tuple(raw.get("failures", ()))
    )


def _order(used: float | None) -> float:
    return float("inf") if used is None else used


def _worst(cases: tuple[Case, ...], gates: Mapping[str, Gate]) -> dict[str, Worst]:
    found: dict[str, Worst] = {}
    for case in cases:
        for metric, value in case.figures.items():
            before = found.get(metric)
            worse = before is None or (value < before.value if metric in HIGHER else value > before.value)
            if worse:
                used = share(metric, value, gates[metric].value) if metric in gates else None
                found[metric] = Worst(value, case.name, used)
    return found
