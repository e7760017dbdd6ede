"""A weight of integers with scales for groups of inputs, as quantized checkpoints have it. Imports no torch."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import Floats

Integers = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Packed:
    """A weight w[n, k] = scale[n, g] * (q[n, k] - zero[n, g]), g = groups[k].

    q, zero: about 0, in `bits` bits; a zero point may be one more. groups: [K]; in order, and of equal size, unless the
    checkpoint sorted a layer's inputs (desc_act, actorder). Raises ValueError for sizes that do not fit together.
    """

    bits: int
    q: Integers
    scale: Floats
    zero: Integers
    groups: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        n, k = self.q.shape
        if self.scale.shape != self.zero.shape or len(self.scale) != n or self.groups.shape != (k,):
            raise ValueError("integers, scales and zero points are of different layers")
        if not 0 <= self.groups.min() <= self.groups.max() < self.scale.shape[1]:
            raise ValueError("a group has no scale")

    @property
    def in_order(self) -> bool:
        """Whether the inputs of a group are neighbours."""
        k, groups = self.q.shape[1], self.scale.shape[1]
        return k % groups == 0 and bool((self.groups == np.arange(k) // (k // groups)).all())

    def part(self, rows: npt.NDArray[np.int64]) -> "Packed":
        """The rows at these indices."""
        return replace(self, q=self.q[rows], scale=self.scale[rows], zero=self.zero[rows])

    def values(self) -> Floats:
        """The weight [N, K] in fp32, exact for scales of 16 bits."""
        levels = (self.q - self.zero[:, self.groups]).astype(np.float32)
        return np.asarray(self.scale[:, self.groups] * levels)
