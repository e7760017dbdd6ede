"""Blocks of GGUF files, unpacked exactly: as the gguf package dequantizes them."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.quantization import gguf_blocks
from pipeline.quantization.grids import integer_range
from tests.support.quantized import random_blocks

Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = (GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
FINITE = st.floats(-100, 100, width=16)  # as fp32: the gguf package divides by the smallest of those
ROWS = arrays(np.float32, st.tuples(st.integers(1, 4), st.just(64)), elements=FINITE)


@given(ROWS, st.sampled_from([Q4_0, Q4_1, Q5_0, Q5_1, Q8_0]))
def test_rounded_rows_are_unpacked_exactly(rows: np.ndarray, kind: GGMLQuantizationType) -> None:
    """The grid has the numbers that the gguf package says a block has: bit for bit, but for a minimum so much larger or
    smaller than the steps that m + 8d is no fp32. Blocks of zeros and of equal values have a scale to divide by."""
    data = quants.quantize(rows, kind)
    grid = gguf_blocks.unpack(data, kind)
    rounding = np.abs(rows).max() * 2**-22 if kind in (Q4_1, Q5_1) else 0
    np.testing.assert_allclose(grid.values(), quants.dequantize(data, kind), rtol=0, atol=rounding)
    assert grid.block == 32
    assert (grid.scale != 0).all()


@pytest.mark.parametrize("kind", gguf_blocks.KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_unpacked_exactly(kind: GGMLQuantizationType) -> None:
    """Blocks of random bytes, so every bit of a layout counts; no integer leaves its format, no scale is 0, and those
    of 8 bits are above it."""
    data = random_blocks(24, 512, kind)
    grid = gguf_blocks.unpack(data, kind)
    np.testing.assert_array_equal(grid.values(), quants.dequantize(data, kind))
    low, high = integer_range(grid.format)
    assert low <= grid.q.min()
    assert grid.q.max() <= high
    assert (grid.scale != 0).all()
    assert (grid.scale > 0).all() or kind is Q4_0
    assert (grid.offset is not None) == (kind.name in ("Q2_K", "Q4_1", "Q4_K", "Q5_1", "Q5_K"))


@pytest.mark.parametrize(
    "kind", [kind for kind in gguf_blocks.KINDS if kind.name in ("Q5_0", "Q6_K", "Q3_K", "IQ4_NL")]
)
def test_negative_steps_change_sides(kind: GGMLQuantizationType) -> None:
    """Engines expect scales above 0, llama.cpp's may be below: the integers change their sign instead."""
    data = random_blocks(8, 256, kind).reshape(-1, quants.GGML_QUANT_SIZES[kind][1])
    at = {"Q6_K": 208, "Q3_K": 108}.get(kind.name, 0)
    data[::2, at + 1] |= 0x80
    data = data.reshape(8, -1)
    grid = gguf_blocks.unpack(data, kind)
    np.testing.assert_array_equal(grid.values(), quants.dequantize(data, kind))
    assert (grid.scale > 0).all()
