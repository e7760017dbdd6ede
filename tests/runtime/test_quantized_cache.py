"""Keys and values as a quantized cache stores them, and back."""

import numpy as np
import pytest

from pipeline.core.contract import contract_for
from pipeline.runtime.quantized_cache import numbers, stored

CONTRACT = contract_for([{"key": (2, 5, 4), "value": (2, 5, 4)}], 9, "fp32", "last", {"batch": 1, "sequence": 1})
SCALES = [[0.5, 1.0, 0.25, 3.0], [2.0, 0.1, 1.0, 0.7]]
KEY = "past_key_values.0.key"


@pytest.mark.parametrize("bits", [8, 4])
def test_there_and_back(bits: int) -> None:
    """Half a step off at most, with the contract's type and shape; whole multiples of a scale come back exactly."""
    contract = CONTRACT.quantized(bits, {cache.name: SCALES for cache in CONTRACT.caches})
    cache = contract.caches[0]
    steps = np.random.default_rng(0).uniform(-7, 7, (2, 5, 4)).astype(np.float32)
    held = stored(contract, cache, steps * np.array(SCALES, np.float32)[:, None])
    assert held.dtype == cache.dtype
    assert held.shape == cache.shape[1:]
    back = numbers(contract, cache, held) / np.array(SCALES, np.float32)[:, None]
    np.testing.assert_allclose(back, np.rint(steps), atol=1e-5)
    np.testing.assert_array_equal(stored(contract, cache, numbers(contract, cache, held)), held)
    assert numbers(contract, cache, held[:, :0]).shape == (2, 0, 4)


def test_numbers_of_four_bits_are_pairs_in_a_byte() -> None:
    """The first in the low half, plus 8; too large ones are cut off."""
    contract = CONTRACT.quantized(4, {KEY: [[1.0] * 4] * 2})
    row = np.broadcast_to(np.array([-8, 7, 99, -99], np.float32), (2, 1, 4))
    assert stored(contract, contract.caches[0], row)[0, 0].tolist() == [0xF0, 0x0F]


def test_a_plain_cache_keeps_its_type() -> None:
    """Its numbers are its own."""
    row = np.ones((2, 1, 4), np.float32)
    assert stored(CONTRACT, CONTRACT.caches[0], row).dtype == np.float32
    np.testing.assert_array_equal(numbers(CONTRACT, CONTRACT.caches[0], row), row)
