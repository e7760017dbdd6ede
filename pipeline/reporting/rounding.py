"""quantize.json as records: a line for each form of quantized weights."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from pipeline.reporting.records import Rounded


def rounded(report: Mapping[str, Any]) -> tuple[Rounded, ...]:
    """The forms, the one with most bytes first; none where weights were not quantized."""
    forms: dict[str, list[dict[str, Any]]] = {}
    for tensor in report.get("tensors", ()):
        forms.setdefault(tensor["form"], []).append(tensor)
    found = [_form(form, tensors) for form, tensors in forms.items()]
    return tuple(sorted(found, key=lambda each: -each.bytes_before))


def _form(form: str, tensors: list[dict[str, Any]]) -> Rounded:
    worst = max(tensors, key=lambda tensor: tensor["rms"])
    return Rounded(
        form=form,
        weights=len(tensors),
        bytes_before=sum(tensor["bytes_before"] for tensor in tensors),
        bytes_after=sum(tensor["bytes_after"] for tensor in tensors),
        carried_over=sum(tensor["carried_over"] for tensor in tensors) / sum(tensor["rows"] for tensor in tensors),
        error=median(tensor["rms"] for tensor in tensors),
        worst_error=worst["rms"],
        worst=worst["name"],
    )
