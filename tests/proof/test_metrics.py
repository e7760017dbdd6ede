"""metrics: figures are relative, have a direction and a gate, and no NaN is lost wherever it stands."""

import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import Gates, Quality
from pipeline.proof.metrics import COMPARISONS, METRICS, Better, Metric, cache_error, kl, logits_error

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 50), np.float32) * 4
CACHE = RNG.standard_normal((2, 5, 8), np.float32)
FIGURES = {logits_error: LOGITS, kl: LOGITS, cache_error: CACHE}


@pytest.mark.parametrize("better", Better)
@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100), st.sampled_from([None, math.nan, math.inf]))
def test_the_worst_value_and_where_it_was_seen(
    better: Better, values: list[float], at: int, broken: float | None
) -> None:
    """The largest error or the smallest share, in any order; the first value that is not finite is worse than all."""
    if broken is not None:
        values.insert(at % (len(values) + 1), broken)
    value, where = Metric("x", better).worst((each, f"{number}") for number, each in enumerate(values))
    assert values[int(where)] is value
    if broken is None:
        assert value == (max(values) if better is Better.lower else min(values))
    else:
        assert value is broken


@pytest.mark.parametrize(("better", "passing", "failing"), [(Better.lower, 0.2, 0.9), (Better.higher, 0.9, 0.2)])
def test_the_direction_of_a_gate(better: Better, passing: float, failing: float) -> None:
    """The limit itself passes, NaN does not."""
    metric = Metric("x", better)
    assert [metric.passes(value, 0.5) for value in (passing, 0.5, failing, math.nan)] == [True, True, False, False]
    assert metric.distance(failing) == pytest.approx(metric.distance(passing) + 0.7)


def test_every_gate_has_a_metric_and_every_metric_of_a_gate_its_key() -> None:
    """A gate that is configured and never measured would prove nothing."""
    measured = {(metric.section, metric.key) for metric in METRICS.values() if metric.section}
    assert {key for kind, key in measured if kind is Gates} == {field.name for field in fields(Gates)}
    assert {key for kind, key in measured if kind is Quality} == {field.name for field in fields(Quality)} - {
        "text",
        "tokens",
        "window",
        "perplexity_carried_over",
    }
    assert len(measured) == sum(metric.section is not None for metric in METRICS.values())
    assert set(COMPARISONS) < set(METRICS.values())


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@given(st.data())
def test_one_number_that_is_not_finite_fails_every_gate(figure, value, data) -> None:  # type: ignore[no-untyped-def]
    """Anywhere in the artifact's numbers, and in the original's: the figure is NaN or infinite."""
    sound = FIGURES[figure]
    damaged = sound.copy()
    damaged.flat[data.draw(st.integers(0, sound.size - 1))] = value
    with np.errstate(all="ignore"):
        assert not math.isfinite(figure(damaged, sound))


@pytest.mark.parametrize("figure", FIGURES)
def test_equal_numbers_are_no_error(figure) -> None:  # type: ignore[no-untyped-def]
    """Of zeros too."""
    assert figure(FIGURES[figure], FIGURES[figure]) == 0
    zeros = np.zeros_like(FIGURES[figure])
    assert figure(zeros, zeros) == 0


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_errors_are_relative(scale: float, shift: float) -> None:
    """A model whose logits are larger, or all moved by a constant, or whose cache is larger, has the same figures."""
    off = LOGITS.astype(np.float64) + RNG.standard_normal(LOGITS.shape) * 1e-2
    want = logits_error(off, LOGITS)  # type: ignore[arg-type]
    moved = logits_error(off * scale + shift, LOGITS.astype(np.float64) * scale + shift)  # type: ignore[arg-type]
    assert moved == pytest.approx(want, rel=1e-3)
    near = CACHE.astype(np.float64) + RNG.standard_normal(CACHE.shape) * 1e-2
    assert cache_error(near * scale, CACHE * np.float64(scale)) == pytest.approx(cache_error(near, CACHE))  # type: ignore[arg-type]


def test_a_large_channel_hides_no_other() -> None:
    """One channel of 300, as a key's bias makes it: 0.3 of error there is little, in another channel it is much."""
    keys = CACHE.copy()
    keys[0, :, 3] += 300
    large, small = keys.copy(), keys.copy()
    large[0, 2, 3] += 0.3
    small[0, 2, 4] += 0.3
    assert cache_error(large, keys) < 1.1e-3
    assert cache_error(small, keys) > 0.1


def test_no_new_tokens_are_no_error() -> None:
    """An idle row writes nothing that could be compared."""
    assert cache_error(CACHE[:, :0], CACHE[:, :0]) == 0


def test_kl_is_that_of_its_formula() -> None:
    """Mean over positions of sum p (ln p - ln q)."""
    other = LOGITS + RNG.standard_normal(LOGITS.shape, np.float32)
    p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(-1, keepdims=True) for x in (LOGITS, other))
    assert kl(other, LOGITS) == pytest.approx(float((p * np.log(p / q)).sum(-1).mean()))
