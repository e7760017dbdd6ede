"""Scales of a quantized cache, and graphs that cannot have one."""

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.core.errors import UserError
from pipeline.quantization import caches

NO_FIRST = np.zeros((1, 1, 1), np.float32)


def test_eight_bits_cut_nothing_off() -> None:
    """The largest number of each channel becomes 127, though no sample has it. Empty channels are allowed."""
    largest = np.array([[12.7, 0.0]], np.float32)
    found = caches.scales(largest, np.array([[[1.0, 0.0]]], np.float32), NO_FIRST, 8)
    np.testing.assert_allclose(found[0, 0], 0.1, rtol=1e-6)
    assert found[0, 1] > 0


def test_a_first_token_gets_a_whole_number_of_steps() -> None:
    """With 8 bits, where the step need not grow much for it: 9.5 become 9. It counts as much as all others."""
    sample = np.random.default_rng(0).uniform(-12.7, 12.7, (999, 1, 1)).astype(np.float32)
    largest = np.array([[12.7]], np.float32)
    for first, at_least, at_most in ((0.95, 0.104, 0.106), (0.9, 0.1, 0.1005), (0.03, 0.1, 0.1005)):
        (scale,) = caches.scales(largest, sample, np.full((4, 1, 1), first, np.float32), 8)[0]
        assert at_least <= scale <= at_most
    (scale,) = caches.scales(
        np.array([[7.0]], np.float32), sample * (7 / 12.7), np.full((4, 1, 1), 1.5, np.float32), 4
    )[0]
    (other,) = caches.scales(np.array([[7.0]], np.float32), sample * (7 / 12.7), NO_FIRST, 4)[0]
    assert scale == other


def test_four_bits_may_cut_a_large_number_off() -> None:
    """One large number among a hundred small ones: the step is smaller than its seventh. Even numbers keep theirs."""
    rare = np.random.default_rng(0).standard_normal((999, 1, 1)).astype(np.float32)
    sample = np.concatenate([rare, np.full((1, 1, 1), 6, np.float32)])
    (scale,) = caches.scales(np.array([[6.0]], np.float32), sample, NO_FIRST, 4)[0]
    assert 6 / 7 * 0.4 <= scale < 6 / 7 * 0.7
    even = np.linspace(-7, 7, 15, dtype=np.float32).reshape(-1, 1, 1)
    np.testing.assert_allclose(caches.scales(np.array([[7.0]], np.float32), even, NO_FIRST, 4), 1.0, rtol=1e-6)


def graph(reader: str) -> ir.Model:
    """A graph with one cache of three channels."""
    return ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["": 24]>
        g (float[1, 1, 5, 3] past, float[1, 1, 1, 3] new, int64[1] slot) => (float[1, 1, 5, 3] present, y) {{
          present = TensorScatter<axis = 2>(past, new, slot)
          y = Relu({reader})
        }}"""
    )


def test_a_cache_that_is_read_before_it_is_written() -> None:
    """It is refused by name."""
    assert caches.writes(graph("present"), ["past"])["past"].op_type == "TensorScatter"
    with pytest.raises(UserError) as error:
        caches.writes(graph("past"), ["past"])
    assert error.value.problems[0].where == "cache.dtype"
    assert "past is read before" in error.value.problems[0].what


def test_pairs_need_an_even_number_of_channels() -> None:
    """4 bits only."""
    scales = {"past": np.ones((1, 3), np.float32)}
    caches.quantize(graph("present"), scales, 8)
    with pytest.raises(UserError, match="3 channels"):
        caches.quantize(graph("present"), scales, 4)
