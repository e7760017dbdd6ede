"""Rounding to grids: how close, what is exact, and that packing two values into a byte loses none."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.core.tables.formats import FORMATS, Format, Weights
from pipeline.quantization import grids
from pipeline.quantization.grids import Grid

INT4, INT8, FP8, NVFP4 = (FORMATS[kind] for kind in (Weights.int4, Weights.int8, Weights.fp8, Weights.nvfp4))
FINITE = st.floats(-100, 100, width=16)  # as fp32: the gguf package divides by the smallest of those
ROWS = arrays(np.float32, st.tuples(st.integers(1, 4), st.just(64)), elements=FINITE)
INTS = arrays(np.int8, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.integers(-8, 7))


@given(ROWS, st.sampled_from([INT4, INT8]), st.sampled_from([16, 32, 64]))
def test_nearest_is_within_half_a_step(rows: np.ndarray, fmt: Format, block: int) -> None:
    """No value is further off than half its block's scale, and scales are never 0."""
    grid = grids.round_to_nearest(rows, block, fmt)
    steps = np.repeat(grid.scale, block, axis=1)
    assert (np.abs(grid.values() - rows) <= steps / 2 + 1e-5).all()
    assert (grid.scale > 0).all()
    assert np.abs(grid.q.astype(int)).max() < 2 ** (fmt.bits - 1)


@given(ROWS)
def test_floats_of_8_bits_keep_three_digits_of_two(rows: np.ndarray) -> None:
    """A value is off by at most a sixteenth of itself, or by what is below the smallest step."""
    grid = grids.round_to_floats(rows, 64, FP8)
    limit = np.maximum(np.abs(rows) / 16, grid.scale * 2.0**-10)
    assert (np.abs(grid.values() - rows) <= limit * 1.001).all()
    assert str(grid.q.dtype) == "float8_e4m3fn"


@given(ROWS, st.sampled_from([np.float16, np.float32]))
def test_floats_of_4_bits_and_their_scales(rows: np.ndarray, dtype: type) -> None:
    """A value is off by at most 1.5 scales, or by six of the smallest that there are; a scale is a float of 8 bits
    times a power of two, and rounding again changes nothing."""
    grid = grids.round_to_floats(rows, 16, NVFP4).rounded(dtype)
    steps, unit = grid.stored_scales()
    limit = np.maximum(np.repeat(grid.scale, 16, axis=1) * 1.5, 6 * unit * 2.0**-9)
    assert (np.abs(grid.values() - rows) <= limit).all()
    np.testing.assert_array_equal(steps.astype(np.float32) * np.float32(unit), grid.scale)
    np.testing.assert_array_equal(grid.rounded(dtype).scale, grid.scale)
    assert float(dtype(unit)) == unit
    assert (str(grid.q.dtype), grid.scale.min() > 0) == ("float4_e2m1fn", True)


@given(ROWS, st.booleans())
def test_fitting_is_no_worse_than_its_range(rows: np.ndarray, offset: bool) -> None:
    """Whatever the numbers, zeros and equal ones included: finite, 4 bits, an error within the blocks' range."""
    grid = grids.fit_least_squares(rows, 32, INT4, offset=offset)
    blocks = rows.reshape(len(rows), -1, 32)
    span = blocks.max(axis=2) - blocks.min(axis=2) if offset else 2 * np.abs(blocks).max(axis=2)
    difference = np.abs(grid.values() - rows).reshape(blocks.shape).max(axis=2)
    assert (difference <= span * 0.6 + 1e-4).all()
    assert grid.q.min() >= -8
    assert grid.q.max() <= 7
    assert (grid.scale > 0).all()


@pytest.mark.parametrize("offset", [False, True])
def test_fitting_is_closer_than_rounding(offset: bool) -> None:
    """On numbers like a model's weights the squared error falls by a fifth, and with an offset by more."""
    rows = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    plain = np.square(grids.round_to_nearest(rows, 32, INT4).values() - rows).mean()
    better = np.square(grids.fit_least_squares(rows, 32, INT4, offset=offset).values() - rows).mean()
    assert better < plain * (0.6 if offset else 0.8)


def test_numbers_on_a_grid_stay() -> None:
    """Rows that are on a grid of 16 levels already are found to be so."""
    rng = np.random.default_rng(0)
    q = rng.integers(-8, 8, (16, 4, 32))
    q[:, :, :2] = -8, 7
    rows = (q * rng.uniform(0.01, 1, (16, 4, 1)) + rng.normal(size=(16, 4, 1))).astype(np.float32).reshape(16, 128)
    np.testing.assert_allclose(grids.fit_least_squares(rows, 32, INT4, offset=True).values(), rows, atol=1e-5)


@given(INTS)
def test_packing_loses_nothing(q: np.ndarray) -> None:
    """Two values a byte, the first in the low half; an odd last one has a byte for itself."""
    data = ir.tensor(q.astype(ml_dtypes.int4)).tobytes()
    halves = np.frombuffer(data, np.uint8)
    unpacked = np.stack([halves & 15, halves >> 4], axis=1).ravel()[: q.size].astype(np.int8)
    np.testing.assert_array_equal(np.where(unpacked > 7, unpacked - 16, unpacked).reshape(q.shape), q)


@given(st.lists(st.booleans(), min_size=1, max_size=9).filter(lambda which: any(which) and not all(which)))
def test_merged_rows_are_in_their_places(which: list[bool]) -> None:
    """Rows of two grids come back in the order of the mask; a missing offset is 0."""
    mask = np.array(which)
    numbers = np.arange(len(which), dtype=np.int8)[:, None]
    ones = np.ones((len(which), 1), np.float32)
    yes, no = Grid(numbers[mask], ones[mask], None, INT8), Grid(numbers[~mask], ones[~mask], ones[~mask], INT8)
    merged = grids.merge(mask, yes, no)
    assert merged.q[:, 0].tolist() == list(range(len(which)))
    assert merged.offset is not None
    assert merged.offset[:, 0].tolist() == [0.0 if m else 1.0 for m in which]


@pytest.mark.parametrize(("k", "wanted", "block"), [(64, 32, 32), (48, 32, 16), (96, 64, 32), (40, 32, None)])
def test_blocks_divide_the_row(k: int, wanted: int, block: int | None) -> None:
    """The wanted size, or the next half of it that divides the row, down to 16."""
    assert grids.largest_block(k, wanted) == block
