"""Blocks of GGUF files: unpacked exactly, and found in a file by what they hold."""

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import quantize
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.quantization import gguf_blocks
from tests.support.quantized import (
    stored,
    write_gguf,
)

Q4_0, Q4_1, Q8_0 = (GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q8_0"))
FINITE = st.floats(-100, 100, width=16)  # as fp32: the gguf package divides by the smallest of those
ROWS = arrays(np.float32, st.tuples(st.integers(1, 4), st.just(64)), elements=FINITE)


@given(ROWS, st.sampled_from([Q4_0, Q4_1, Q8_0]))
def test_blocks_of_gguf_are_unpacked_exactly(rows: np.ndarray, kind: GGMLQuantizationType) -> None:
    """The grid has the numbers that the gguf package says a block has: bit for bit, but for a minimum so much larger or
    smaller than the steps that m + 8d is no fp32."""
    data = quants.quantize(rows, kind)
    grid = gguf_blocks.unpack(data, kind)
    want = quants.dequantize(data, kind)
    rounding = np.abs(rows).max() * 2**-22 if kind is Q4_1 else 0
    np.testing.assert_allclose(grid.values(), want, rtol=0, atol=rounding)
    assert grid.block == 32


def test_rows_are_found_in_any_order(tmp_path: Path) -> None:
    """Rows of two tensors of one format, shuffled; rows of another format, and others, are not there."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (60, 64)).astype(np.float32)
    write_gguf(tmp_path / "a.gguf", {"a": (rows[:30], Q4_1), "b": (rows[30:40], Q4_0), "c": (rows[40:], Q8_0)})
    index = gguf_blocks.GgufRowIndex(tmp_path / "a.gguf", FORMATS[Weights.int4], np.float32)
    wanted = np.concatenate([stored(rows[:30], Q4_1), stored(rows[30:40], Q4_0), stored(rows[40:], Q8_0), rows])
    order = rng.permutation(len(wanted))
    places = index.locate(wanted[order])
    assert (places[:, 0] >= 0).tolist() == (order < 40).tolist()
    np.testing.assert_array_equal(index.grid(places[order < 40]).values(), wanted[order][order < 40])


def test_a_zero_is_found_whatever_its_sign(tmp_path: Path) -> None:
    """0 and -0 are one number."""
    rows = np.zeros((1, 32), np.float32)
    rows[0, :2] = 1, -1
    write_gguf(tmp_path / "a.gguf", {"a": (rows, Q8_0)})
    index = gguf_blocks.GgufRowIndex(tmp_path / "a.gguf", FORMATS[Weights.int8], np.float32)
    found = stored(rows, Q8_0)
    flipped = np.where(found == 0, -found, found)
    assert np.signbit(flipped[0, 2:]).all()
    assert index.locate(flipped).tolist() == [[0, 0]]


def test_only_gguf_files_are_gguf_files(tmp_path: Path) -> None:
    """Told by the first bytes of a file: a folder, a text and a missing file are none, and no error."""
    (tmp_path / "text").write_text("random\n")
    write_gguf(tmp_path / "a.gguf", {})
    found = [gguf_blocks.is_gguf(tmp_path / name) for name in ("", "text", "missing", "a.gguf")]
    assert found == [False, False, False, True]
    assert quantize.gguf_rows_of(tmp_path / "text", np.float32)(FORMATS[Weights.int4]) is None
