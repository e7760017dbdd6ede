"""Choose the next token from logits: greedy, or sampled with temperature, top-k and top-p."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import Floats
from pipeline.core.errors import Problem


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. top_k: keep the k most probable tokens, 0 keeps all. top_p: then keep the most probable
    tokens whose probabilities together first reach p (nucleus sampling, Holtzman et al. 2020). seed: of the random
    numbers, one stream for all rows."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def problems(self) -> list[Problem]:
        """What is wrong with these settings."""
        checks = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "a value above 0, at most 1"),
        }
        return [
            Problem(f"{name} is {getattr(self, name)}", name, f"give {allowed}")
            for name, (good, allowed) in checks.items()
            if not good
        ]


GREEDY = Sampling()


def choose(logits: Floats, sampling: Sampling, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Choose one token for each row of `logits` [rows, vocab]: int64 [rows]."""
    if sampling.temperature == 0:
        greedy: npt.NDArray[np.int64] = logits.argmax(-1)
        return greedy
    return np.array([rng.choice(logits.shape[-1], p=probabilities(row, sampling)) for row in logits], np.int64)


def probabilities(logits: Floats, sampling: Sampling) -> npt.NDArray[np.float64]:
    """The distribution that the token of one row [vocab] is drawn from, for a temperature above 0: fp64 [vocab]."""
    order = np.argsort(-logits, kind="stable")
    kept = np.exp((logits[order].astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.top_k:
        kept[sampling.top_k :] = 0
    kept /= kept.sum()
    kept[np.cumsum(kept) - kept >= sampling.top_p] = 0  # always keeps the most probable
    result = np.zeros(len(kept), np.float64)
    result[order] = kept / kept.sum()
    return result
