"""GPTQ on numbers of its own: what it gains under H, and where there is nothing to gain."""

import numpy as np
import pytest

from pipeline.core.arrays import Floats
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.quantization.gptq import DAMPING, gptq, inverse_hessian_cholesky
from pipeline.quantization.grids import fit_least_squares, round_to_nearest

K, N = 256, 48
INT4, INT8 = FORMATS[Weights.int4], FORMATS[Weights.int8]


def numbers() -> tuple[Floats, Floats]:
    """Weights [N, K], and H = X^T X of inputs whose channels are correlated and differ in size."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2048, 64)) @ rng.normal(size=(64, K)) + rng.normal(size=(2048, K))
    inputs *= rng.lognormal(size=K)
    return rng.normal(size=(N, K)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def loss(difference: Floats, hessian: Floats) -> float:
    """tr(D H D^T): the squared error of a layer's outputs."""
    return float(np.vdot(difference @ hessian, difference))


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("block", [16, 32, 256])
def test_outputs_are_closer_than_those_of_rounding(block: int, offset: bool) -> None:
    """The layer's outputs have less than half the error, although the weights have more."""
    rows, hessian = numbers()
    plain = fit_least_squares(rows, block, INT4, offset=offset).values() - rows
    grid = gptq(rows, inverse_hessian_cholesky(hessian), block, INT4, offset=offset)
    assert grid.block == block
    assert (grid.offset is not None) == offset
    assert (grid.q.min(), grid.q.max()) == (-8, 7)
    difference = grid.values() - rows
    assert loss(difference, hessian) < loss(plain, hessian) / 2
    assert np.square(difference).sum() > np.square(plain).sum()


@pytest.mark.parametrize("scale", [0, 1e-6, 1, 1e6])
@pytest.mark.parametrize("offset", [False, True])
def test_inputs_without_correlation(offset: bool, scale: float) -> None:
    """Nothing can be made up for: every weight goes to the nearest level of the grid that is closest. So it is for
    inputs that are always 0."""
    rows, _ = numbers()
    grid = gptq(
        rows, inverse_hessian_cholesky(np.eye(K, dtype=np.float32) * np.float32(scale)), 32, INT4, offset=offset
    )
    want = fit_least_squares(rows, 32, INT4, offset=offset)
    np.testing.assert_allclose(grid.scale, want.scale, rtol=1e-4)
    steps = np.repeat(grid.scale, 32, axis=1)
    middle = 0 if grid.offset is None else np.repeat(grid.offset, 32, axis=1)
    np.testing.assert_array_equal(grid.q, np.rint((rows - middle) / steps).clip(-8, 7))
    assert np.square(grid.values() - rows).sum() <= np.square(want.values() - rows).sum() * 1.0001


def test_8_bits_of_a_whole_row() -> None:
    """One scale a row, the one of rounding to nearest; the outputs have less than half the error."""
    rows, hessian = numbers()
    grid, plain = gptq(rows, inverse_hessian_cholesky(hessian), K, INT8, offset=False), round_to_nearest(rows, K, INT8)
    assert grid.offset is None
    np.testing.assert_array_equal(grid.scale, plain.scale)
    assert loss(grid.values() - rows, hessian) < loss(plain.values() - rows, hessian) / 2


def test_an_input_that_is_always_zero() -> None:
    """It costs nothing, and spoils nothing."""
    rows, hessian = numbers()
    hessian[3] = hessian[:, 3] = 0
    grid = gptq(rows, inverse_hessian_cholesky(hessian), 32, INT4, offset=True)
    assert np.isfinite(grid.values()).all()
    assert (
        loss(grid.values() - rows, hessian)
        < loss(fit_least_squares(rows, 32, INT4, offset=True).values() - rows, hessian) / 2
    )


def test_inverse_hessian_cholesky() -> None:
    """Upper triangular, and its square the inverse of the damped H."""
    _, hessian = numbers()
    u = inverse_hessian_cholesky(hessian)
    assert (np.tril(u, -1) == 0).all()
    damped = hessian + DAMPING * np.diag(hessian).mean() * np.eye(K)
    np.testing.assert_allclose(u.T @ u @ damped, np.eye(K), atol=2e-3)
