"""choose: which point is recommended and why, and the Pareto front."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.reporting import choose
from pipeline.reporting.records import FAILED, UNBUILT, Point
from tests.support.reports import point


def only(*points: Point) -> Any:
    """The comparison of points that all compare."""
    (found,) = choose.compare(points)
    return found


def test_the_fastest_within_the_limit_is_taken() -> None:
    """One that is faster and loses more is not; the sentence has the numbers and the reason."""
    found = only(point("a"), point("b", 30, 0.0099), point("c", 90, 0.0101), point("d", 20, 0.001))
    assert found.chosen == "b"
    assert found.sentence == (
        "Take b (int8, cache of 64 slots): 30.0 tokens/s, perplexity +0.99 % (20.20, the original has 20.00). "
        "It is the fastest of the 3 verified points within 1 % of the original; "
        "it is 3.00 times as fast as a, the closest to it."
    )
    assert found.front == ("c", "b", "d", "a")
    assert found.points == ("c", "b", "d", "a")


@pytest.mark.parametrize(
    ("points", "chosen", "reason"),
    [
        ([point("a", 10.0, 0.004), point("b", 9.8, 0.001)], "b", "it has the smallest loss"),
        ([point("a", 10.0, 0.004), point("b", 9.6, 0.001)], "a", "the fastest of the 2"),
        ([point("a", 10.0, peak=120.0), point("b", 9.8, peak=110.0)], "b", "the least memory of those with"),
        ([point("b", 10.0), point("a", 10.0)], "a", "Of the 2 verified points"),
        # differences of a hundredth of a per cent are none
        ([point("a", 10.0, 2e-5, peak=90.0), point("b", 10.0, -1e-7)], "a", "the least memory"),
    ],
)
def test_ties(points: list[Point], chosen: str, reason: str) -> None:
    """Equal speeds are decided by quality, then memory, then name, whatever the order of the points."""
    for given in (points, points[::-1]):
        found = only(*given)
        assert found.chosen == chosen
        assert reason in found.sentence


def test_a_lower_perplexity_is_a_difference_too() -> None:
    """What rounding makes better on one text is chance."""
    found = only(point("a"), point("b", 50, -0.02))
    assert found.chosen == "a"
    assert found.front == ("b", "a")
    assert "the only one of 2 verified points within 1 % of the original." in found.sentence


def test_the_sentence_has_the_agreement_too() -> None:
    """Equal perplexities may hide other choices."""
    one = point("a")
    found = only(replace(one, quality=one.quality | {"top1": 0.966}))
    assert "(20.00, the original has 20.00), the original's first choice at 97 % of tokens." in found.sentence


def test_the_only_point() -> None:
    """There is nothing to compare it with."""
    assert only(point("a")).sentence.endswith("No other verified point was measured like it.")


def test_none_within_the_limit() -> None:
    """The closest one is named, and not recommended."""
    found = only(point("a", 10, 0.05), point("b", 20, 0.5))
    assert found.chosen is None
    assert found.sentence == (
        "No verified point keeps its perplexity within 1 % of the original: "
        "a comes closest, +5.00 % (21.00, the original has 20.00)."
    )


def test_nothing_verified() -> None:
    """Failed points are no candidates, however fast, and not on the front."""
    found = only(point("a", state=FAILED), point("b", state=UNBUILT, speed=None, quality={}))
    assert (found.chosen, found.front, found.points) == (None, (), ("a",))
    assert found.sentence == "There is nothing to recommend: no point is verified (1 failed, 1 not built)."


def test_verified_but_not_measured() -> None:
    """Of another machine's engine, say."""
    found = only(point("a", speed=None))
    assert found.sentence == (
        "There is nothing to recommend: no point is verified with a speed and a perplexity (1 verified)."
    )


def test_models_and_ways_of_measuring_are_not_mixed() -> None:
    """Each has a recommendation; points without a model, which were not built, belong to none."""
    points = [point("a"), point("b", 99, rows=4), point("c", 50, model="other"), point("d"), point("e", model="")]
    found = choose.compare(points)
    assert [(each.model, each.batch, each.points) for each in found] == [
        ("m", 1, ("a", "d")),
        ("m", 4, ("b",)),
        ("other", 1, ("c",)),
    ]
    assert choose.compare([]) == []


def test_the_front() -> None:
    """No point of it is beaten; equal ones are all on it; slower and no better ones are not."""
    points = [point("a", 10), point("b", 10), point("c", 9), point("d", 20, 0.01), point("e", 15, 0.01)]
    assert choose.front(points) == ("d", "a", "b")
    assert choose.front([]) == ()
