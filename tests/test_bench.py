"""What the bench stage reports; how fast is for `make bench` and people to judge."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest
import yaml

from pipeline import bench
from pipeline.core import layout


def test_report_and_plot(tiny_copy: Callable[[], Path]) -> None:
    """The figures fit each other, the plot and the engine's files; the plot has a row for each new token."""
    folder = tiny_copy()
    params = yaml.safe_load((folder / layout.PARAMS).read_text())
    params["bench"] |= {"batch": 3, "repeats": 1}  # so that the plot shows all steps that were measured
    (folder / layout.PARAMS).write_text(yaml.safe_dump(params))
    start = time.perf_counter()
    with contextlib.chdir(folder):
        bench.main()
    seconds = time.perf_counter() - start
    report = json.loads((folder / layout.BENCH).read_text())
    assert set(report) == {"prefill_s", "decode_tok_s", "step_ms", "load_s", "peak_mb", "model_mb"}
    latency = json.loads((folder / layout.LATENCY).read_text())
    assert [row["token"] for row in latency] == list(range(16))
    steps = [row["ms"] for row in latency]
    assert report["step_ms"] == pytest.approx(median(steps), abs=1e-3)
    assert report["decode_tok_s"] == pytest.approx(3e3 / median(steps), rel=0.05)  # of figures that are rounded
    assert 0 < report["load_s"] + report["prefill_s"] + sum(steps) / 1e3 < seconds
    model = sum(file.stat().st_size for file in (folder / layout.ENGINE).iterdir())
    assert report["model_mb"] == pytest.approx(model / 2**20, abs=0.051)
    assert report["peak_mb"] > report["model_mb"]
