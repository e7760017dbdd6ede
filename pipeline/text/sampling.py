"""Choose the next token from logits: greedy, or sampled with temperature, top-k, top-p and min-p."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import Floats
from pipeline.core.errors import Problem


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. top_k: keep the k most probable tokens, 0 keeps all. top_p: then keep the most probable
    tokens whose probabilities together first reach p (nucleus sampling, Holtzman et al. 2020). seed: of the random
    numbers, of which every row draws its own, so that a text does not depend on the batch. repetition_penalty: divide
    positive logits of tokens that prompt and answer have already by it, and multiply negative ones (Keskar et al.
    2019); 1 changes nothing. min_p: then keep tokens with at least this share of the highest probability (Nguyen et
    al. 2024)."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 1.0
    min_p: float = 0.0

    def problems(self) -> list[Problem]:
        """What is wrong with these settings."""
        checks = {
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (all tokens) or more"),
            "top_p": (0 < self.top_p <= 1, "a value above 0, at most 1"),
            "seed": (self.seed >= 0, "0 or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "1 (none) or another value above 0"),
            "min_p": (0 <= self.min_p <= 1, "0 (all tokens) to 1"),
        }
        return [
            Problem(f"{name} is {getattr(self, name)}", name, f"give {allowed}")
            for name, (good, allowed) in checks.items()
            if not good
        ]


GREEDY = Sampling()


class Row:
    """What choosing the tokens of one text depends on: its random numbers, and the tokens that it has.

    prompt: its tokens. vocab: the number of logits.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocab: int) -> None:
        self._sampling = sampling
        self._rng = np.random.default_rng(sampling.seed)
        self._seen: npt.NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1:
            self._seen = np.zeros(vocab, np.bool_)
            self._seen[list(prompt)] = True

    def choose(self, logits: Floats) -> int:
        """Choose the token after logits [vocab], and count it as one that the text has."""
        if self._seen is not None:
            logits = penalized(logits, self._seen, self._sampling.repetition_penalty)
        if self._sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            token = int(self._rng.choice(len(logits), p=probabilities(logits, self._sampling)))
        if self._seen is not None:
            self._seen[token] = True
        return token


def penalized(logits: Floats, seen: npt.NDArray[np.bool_], penalty: float) -> Floats:
    """Logits [vocab], those of tokens that were `seen` [vocab] made smaller."""
    smaller = np.where(logits < 0, logits * np.float32(penalty), logits / np.float32(penalty))
    return np.where(seen, smaller, logits)


def probabilities(logits: Floats, sampling: Sampling) -> npt.NDArray[np.float64]:
    """The distribution that the token of one row [vocab] is drawn from, for a temperature above 0: fp64 [vocab].

    The repetition penalty is not in it.
    """
    order = np.argsort(-logits, kind="stable")
    kept = np.exp((logits[order].astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.top_k:
        kept[sampling.top_k :] = 0
    kept /= kept.sum()
    kept[np.cumsum(kept) - kept >= sampling.top_p] = 0  # always keeps the most probable
    kept[kept < sampling.min_p * kept[0]] = 0
    result = np.zeros(len(kept), np.float64)
    result[order] = kept / kept.sum()
    return result
