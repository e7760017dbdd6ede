"""history: the time of a stage by earlier runs, and a file of them that may hold anything."""

import json
from pathlib import Path

import pytest

from pipeline.planning import history

FP32 = {"precision.compute": "fp32", "quantize.weights": "none"}
INT4 = FP32 | {"quantize.weights": "int4"}


def run(stage: str, seconds: float, parameters: int, **settings: str) -> history.Run:
    """A run as a stage notes it."""
    return {"stage": stage, "seconds": seconds, "parameters": parameters, **settings}


RUNS = [
    run("wrap", 10.0, 100, **FP32),
    run("wrap", 90.0, 1000, **FP32),
    run("quantize", 0.1, 100, **FP32),
    run("quantize", 50.0, 1000, **INT4),
    run("wrap", 12.0, 100, **FP32),
]


@pytest.mark.parametrize(
    ("stage", "parameters", "settings", "seconds"),
    [
        ("wrap", 200, FP32, 24.0),  # the nearest in size, the later of two
        ("wrap", 2000, FP32, 180.0),
        ("quantize", 100, INT4, 5.0),  # equal settings come before an equal size
        ("verify", 100, FP32, None),
    ],
)
def test_the_nearest_run_is_scaled(stage: str, parameters: int, settings: dict[str, str], seconds: float) -> None:
    """In proportion to the parameters."""
    assert history.seconds(RUNS, stage, parameters, settings) == seconds


def test_lines_that_hold_no_run_are_left_out(tmp_path: Path) -> None:
    """A file cut short by a full disk, or edited, costs its bad lines alone; no file is no runs."""
    path = tmp_path / "history.jsonl"
    assert history.read(path) == []
    wrong = ['{"stage": "wrap", "sec', "7", "[]", '{"stage": "wrap"}', json.dumps(run("wrap", 0, 0)), ""]
    path.write_text("\n".join([json.dumps(RUNS[0]), *wrong, json.dumps(RUNS[1])]))
    assert history.read(path) == RUNS[:2]
