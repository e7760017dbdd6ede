"""rounding: quantize.json by forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.reporting.records import Rounded
from pipeline.reporting.rounding import rounded


def tensor(form: str, rms: float, **more: Any) -> dict[str, Any]:
    """A quantized weight."""
    return {"name": f"w{rms}", "form": form, "rms": rms, "rows": 4, "carried_over": 0} | {
        "bytes_before": 400,
        "bytes_after": 100,
        **more,
    }


def test_weights_of_one_form_are_a_line() -> None:
    """The form with most bytes first; the weight that is furthest off is named."""
    given = [tensor("table", 0.5), *(tensor("linear", rms, carried_over=2) for rms in (0.1, 0.3, 0.2))]
    assert rounded({"tensors": given}) == (
        Rounded("linear", 3, 1200, 300, 0.5, 0.2, 0.3, "w0.3"),
        Rounded("table", 1, 400, 100, 0.0, 0.5, 0.5, "w0.5"),
    )


def test_nothing_was_quantized() -> None:
    """No report, or one without weights."""
    assert rounded({}) == rounded({"weights": "none", "tensors": []}) == ()


def test_a_real_report(proven: Path) -> None:
    """All bytes are in some form."""
    real = json.loads((proven / layout.QUANTIZED / layout.QUANTIZATION).read_text())
    found = rounded(real)
    assert sum(form.bytes_after for form in found) == real["bytes_after"]
    assert all(0 < form.error <= form.worst_error < 0.1 for form in found)
    assert sum(form.weights for form in found) == len(real["tensors"])
    assert found[0].worst in {each["name"] for each in real["tensors"]}
    assert pytest.approx(0) == found[0].carried_over
