"""GPTQ on numbers of its own: what it gains under H, and where there is nothing to gain."""

import numpy as np
import pytest

from pipeline.core.dtypes import Floats
from pipeline.quantization.gptq import DAMPING, factor, gptq
from pipeline.quantization.grids import closest, nearest

K, N = 256, 48


def numbers() -> tuple[Floats, Floats]:
    """Weights [N, K], and H = X^T X of inputs whose channels hang together and differ in size."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2048, 64)) @ rng.normal(size=(64, K)) + rng.normal(size=(2048, K))
    inputs *= rng.lognormal(size=K)
    return rng.normal(size=(N, K)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def loss(difference: Floats, moments: Floats) -> float:
    """tr(D H D^T): the squared error of a layer's outputs."""
    return float(np.vdot(difference @ moments, difference))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("block", [16, 32, 256])
def test_outputs_are_closer_than_nearests(block: int, centered: bool) -> None:
    """The layer's outputs have less than half the error, although the weights have more."""
    rows, moments = numbers()
    plain = closest(rows, block, 4, centered=centered).values() - rows
    grid = gptq(rows, factor(moments), block, 4, centered=centered)
    assert grid.block == block
    assert (grid.center is not None) == centered
    assert (grid.q.min(), grid.q.max()) == (-8, 7)
    difference = grid.values() - rows
    assert loss(difference, moments) < loss(plain, moments) / 2
    assert np.square(difference).sum() > np.square(plain).sum()


@pytest.mark.parametrize("scale", [0, 1e-6, 1, 1e6])
@pytest.mark.parametrize("centered", [False, True])
def test_inputs_without_correlation(centered: bool, scale: float) -> None:
    """Nothing can be made up for: every weight goes to the nearest level of the grid that is closest. So it is for
    inputs that are always 0."""
    rows, _ = numbers()
    grid = gptq(rows, factor(np.eye(K, dtype=np.float32) * np.float32(scale)), 32, 4, centered=centered)
    want = closest(rows, 32, 4, centered=centered)
    np.testing.assert_allclose(grid.scale, want.scale, rtol=1e-4)
    steps = np.repeat(grid.scale, 32, axis=1)
    middle = 0 if grid.center is None else np.repeat(grid.center, 32, axis=1)
    np.testing.assert_array_equal(grid.q, np.rint((rows - middle) / steps).clip(-8, 7))
    assert np.square(grid.values() - rows).sum() <= np.square(want.values() - rows).sum() * 1.0001


def test_8_bits_of_a_whole_row() -> None:
    """One scale a row, the one that nearest takes; the outputs have less than half the error."""
    rows, moments = numbers()
    grid, plain = gptq(rows, factor(moments), K, 8, centered=False), nearest(rows, K, 8)
    assert grid.center is None
    np.testing.assert_array_equal(grid.scale, plain.scale)
    assert loss(grid.values() - rows, moments) < loss(plain.values() - rows, moments) / 2


def test_an_input_that_is_always_zero() -> None:
    """It costs nothing, and spoils nothing."""
    rows, moments = numbers()
    moments[3] = moments[:, 3] = 0
    grid = gptq(rows, factor(moments), 32, 4, centered=True)
    assert np.isfinite(grid.values()).all()
    assert loss(grid.values() - rows, moments) < loss(closest(rows, 32, 4, centered=True).values() - rows, moments) / 2


def test_factor() -> None:
    """Upper triangular, and its square the inverse of the damped H."""
    _, moments = numbers()
    u = factor(moments)
    assert (np.tril(u, -1) == 0).all()
    damped = moments + DAMPING * np.diag(moments).mean() * np.eye(K)
    np.testing.assert_allclose(u.T @ u @ damped, np.eye(K), atol=2e-3)
