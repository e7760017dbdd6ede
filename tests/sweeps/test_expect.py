"""What is left of a build, and for how long."""

from typing import Any

import pytest

from pipeline.core.tables.stages import OF_A_POINT
from pipeline.sweeps.expect import duration, expected, left

SECTIONS = {"wrap": ["model"], "export": [], "simplify": [], "quantize": [], "engine": ["engine"], "verify": []}


def test_what_another_point_has_costs_nothing() -> None:
    """Of two points with one model the second is expected to find wrap, and not its engine; unknown times are left
    out."""
    plans: list[dict[str, Any]] = [
        {"point": name, "stages": {stage: {"seconds": 5.0} for stage in OF_A_POINT}} for name in ("a", "b")
    ]
    plans[1]["stages"]["bench"]["seconds"] = None
    configurations = {name: {"model": 0, "engine": name} for name in ("a", "b")}
    found = expected(plans, configurations, SECTIONS)
    assert found["wrap", "a"] == 5.0
    assert found["wrap", "b"] == 0.0
    assert found["engine", "b"] == 5.0
    assert ("bench", "b") not in found


def test_stages_to_come_are_in_order() -> None:
    """Stage by stage, and within a stage point by point."""
    found = left(["a", "b"], {("toolchain", ""), ("compose", "a")})
    assert found[:3] == [("compose", "b"), ("wrap", "a"), ("wrap", "b")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3540, "59 min"), (5390, "1 h 30 min"), (11100, "3 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text
