"""What the bench stage reports; how fast is for `make bench` and people to judge."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from pipeline import bench
from pipeline.core import layout


def test_report_and_plot(tiny_copy: Callable[[], Path]) -> None:
    """All figures are there and positive; the plot has a row for each new token."""
    folder = tiny_copy()
    with contextlib.chdir(folder):
        bench.main()
    report = json.loads((folder / layout.BENCH).read_text())
    assert set(report) == {"prefill_s", "decode_tok_s", "step_ms", "load_s", "peak_mb", "model_mb"}
    assert all(value > 0 for value in report.values())
    latency = json.loads((folder / layout.LATENCY).read_text())
    assert [row["token"] for row in latency] == list(range(16))
    assert all(row["ms"] > 0 for row in latency)
