"""Integers with scales for groups of inputs: their values, and sizes that do not fit together."""

import numpy as np
import pytest

from pipeline.packed.integers import Packed


def weight(groups: list[int], zeros: int = 2) -> Packed:
    """One row of four integers with two scales."""
    q, scale = np.array([[1, 2, 3, 4]], np.int16), np.array([[0.5, 2.0]], np.float32)
    return Packed(4, q, scale, np.array([[1] * zeros], np.int16), np.array(groups))


def test_values() -> None:
    """scale * (q - zero), each with those of its group, in any order of the inputs."""
    assert weight([0, 0, 1, 1]).values().tolist() == [[0.0, 0.5, 4.0, 6.0]]
    assert weight([0, 1, 0, 1]).values().tolist() == [[0.0, 2.0, 1.0, 6.0]]
    assert [weight(groups).in_order for groups in ([0, 0, 1, 1], [0, 1, 0, 1])] == [True, False]


def test_sizes_that_do_not_fit_together() -> None:
    """Another number of zero points than of scales, a group that has no scale."""
    for groups, zeros in (([0, 0, 1, 1], 1), ([0, 0, 1, 2], 2)):
        with pytest.raises(ValueError, match=r"layers|scale"):
            weight(groups, zeros)
