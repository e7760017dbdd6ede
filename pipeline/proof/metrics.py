"""The figures that verify measures: METRICS, with the gate of each and which way is worse.

A new metric is one entry of METRICS. One of logits or caches needs no more code: `measure` is called for every row of
every case. A gate is a key of the section of the configuration that `section` names.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import torch
from torch.nn.functional import kl_div

from pipeline.core.arrays import Floats
from pipeline.core.schema import Gates, Quality

SMALLEST = float(np.finfo(np.float32).tiny)  # in place of a scale of 0: any difference is then far above every gate

Found = tuple[float, str]  # a value, and where it was seen


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


class Better(Enum):
    """Which values of a metric are the better ones."""

    lower = "lower"
    higher = "higher"


@dataclass(frozen=True)
class Metric:
    """A figure. section, key: where its gate is configured; None for a figure without a gate."""

    name: str
    better: Better
    section: type[Gates] | type[Quality] | None = None
    key: str = ""

    def passes(self, value: float, limit: float) -> bool:
        """Whether a value keeps a limit; NaN never does."""
        return value <= limit if self.better is Better.lower else value >= limit

    def worst(self, found: Iterable[Found]) -> Found:
        """The worst value and where it was seen; the first that is not finite is worse than all others."""
        values = list(found)
        broken = next((each for each in values if not math.isfinite(each[0])), None)
        return broken or (max if self.better is Better.lower else min)(values, key=lambda each: each[0])

    def distance(self, value: float) -> float:
        """How far a value is from perfect: an error from 0, a share from 1."""
        return value if self.better is Better.lower else 1 - value


@dataclass(frozen=True)
class Comparison(Metric):
    """A metric of one row's tensor: measure(the artifact's, the original's) in fp32.

    widest: the largest distance that verify.headroom ever allows, however sensitive the row. It is half of how far off
    the answer to an unrelated text is.
    """

    measure: Callable[[Floats, Floats], float] = field(kw_only=True)
    widest: float = field(kw_only=True)


# got, want: [positions, vocab]
LOGITS = (
    Comparison("logits_error", Better.lower, Gates, "logits_error", measure=logits_error, widest=3.0),
    Comparison("kl", Better.lower, Gates, "kl", measure=kl, widest=1.0),
)
# got, want: [kv_heads, tokens, head_dim], of one layer's keys or values
CACHES = (Comparison("cache_error", Better.lower, Gates, "cache_error", measure=cache_error, widest=1.5),)
COMPARISONS = (*LOGITS, *CACHES)

METRICS = {
    metric.name: metric
    for metric in (
        *COMPARISONS,
        # of greedy text: pipeline.proof.compare
        Metric("greedy_agreement", Better.higher, Gates, "greedy_agreement"),
        Metric("repetition", Better.lower),
        Metric("added_repetition", Better.lower, Quality, "added_repetition"),
        # of a text that is read: pipeline.proof.quality
        Metric("perplexity", Better.lower),
        Metric("perplexity_original", Better.lower),
        Metric("predicted_tokens", Better.higher),
        Metric("perplexity_increase", Better.lower, Quality, "perplexity"),
        Metric("mean_kl", Better.lower, Quality, "kl"),
        Metric("top1", Better.higher, Quality, "top1"),
    )
}
