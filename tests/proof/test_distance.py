"""distance: relative figures, and no NaN is lost wherever it stands."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.proof.distance import Worst, cache_error, kl, logits_error

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((3, 50), np.float32) * 4
CACHE = RNG.standard_normal((2, 5, 8), np.float32)
FIGURES = {logits_error: LOGITS, kl: LOGITS, cache_error: CACHE}


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(0, 100), st.booleans())
def test_the_worst_is_the_largest_and_a_nan_is_worse(values: list[float], at: int, broken: bool) -> None:
    """In any order, with a NaN anywhere: it stays the worst, and the place is that of its first."""
    if broken:
        values.insert(at % (len(values) + 1), math.nan)
    worst = Worst()
    for number, value in enumerate(values):
        worst.add(value, f"{number}")
    if broken:
        assert math.isnan(worst.value)
        assert math.isnan(values[int(worst.where)])
    else:
        assert worst.value == max(values)


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
