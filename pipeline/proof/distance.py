"""How far an artifact's numbers are from the original's, each relative to the size of the original's own.

Every function gives NaN or infinity when either side is not finite, so no gate lets it pass.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import kl_div

from pipeline.core.dtypes import Floats

SMALLEST = float(np.finfo(np.float32).tiny)  # in place of a scale of 0: any difference is then far above every gate


@dataclass
class Worst:
    """The worst of several values, 0.0 or more, and where it was seen. The first NaN is the worst of all and stays."""

    value: float = 0.0
    where: str = ""

    def add(self, value: float, where: str) -> None:
        """Keep the value if it is worse than all before it."""
        if not math.isnan(self.value) and not value <= self.value:
            self.value, self.where = value, where


def logits_error(got: Floats, want: Floats) -> float:
    """Largest difference of a logit, in standard deviations of the original's logits at its position.

    got, want: [positions, vocab]. The standard deviation is that over the vocabulary, of one position.
    """
    with np.errstate(invalid="ignore"):
        scale = np.maximum(want.std(-1, dtype=np.float64, keepdims=True), SMALLEST)
        return float((np.abs(got.astype(np.float64) - want) / scale).max(initial=0.0))


def kl(got: Floats, want: Floats) -> float:
    """Mean over positions of KL(original || artifact) of the next token, in nats. got, want: [positions, vocab]."""
    p, q = (torch.from_numpy(logits).double().log_softmax(-1) for logits in (want, got))
    return float(kl_div(q, p, log_target=True, reduction="batchmean"))


def cache_error(got: Floats, want: Floats) -> float:
    """Largest difference in a cache, relative to the largest number of its channel, or to that of the median channel
    where the channel's own is smaller: a key's bias makes some channels a hundred times as large as the others, and
    must not hide what happens in those.

    got, want: keys or values of one layer and row, [kv_heads, tokens, head_dim].
    """
    if not want.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        channels = np.abs(want).max(1, keepdims=True)
        scale = np.maximum(np.maximum(channels, np.median(channels)), SMALLEST)
        return float((np.abs(got.astype(np.float64) - want) / scale).max())
