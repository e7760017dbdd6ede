"""The systems: one module each, all behind `Peer`. A peer's packages are imported in its own module only."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = Sequence[Sequence[int]]
TILE = 1024  # tokens that are made where a cache is filled; others repeat them


class UnsupportedError(Exception):
    """The system does not support the case; the message is the text of a table's footnote."""


class Peer(ABC):
    """A system with its model loaded, on `threads` threads. `version`: of the package that computes."""

    version: str

    @abstractmethod
    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        """Load the model that `build` left in `folder`."""

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        """Convert the Hugging Face folder `checkpoint` into what __init__ loads. Systems that load it directly do not
        need this."""
        raise NotImplementedError

    @abstractmethod
    def begin(self, batch: int, cache: int) -> None:
        """Make an empty cache of `batch` rows and `cache` slots, unless it grows. Raises UnsupportedError."""

    @abstractmethod
    def step(self, tokens: Rows) -> list[int]:
        """Feed the same number of new tokens to each row; return each row's most probable next token."""

    @abstractmethod
    def end(self) -> None:
        """Free what `begin` made."""

    @abstractmethod
    def nll(self, windows: Rows) -> float:
        """Negative log-likelihood of tokens 2 to last of all windows, each read from an empty cache; a sum in nats."""

    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads: all but the embedding's table, unless the head shares it."""

    # What benchmarks.cache asks its systems.

    def fill(self, used: int, slots: int) -> None:
        """Make a cache of one row with `used` tokens in it, whatever they are, and room for `slots`."""
        raise UnsupportedError("its cache cannot be filled")

    def cache_bytes(self) -> float:
        """Bytes of one token in a filled cache."""
        raise NotImplementedError

    def read(self, tokens: Sequence[int], chunk: int) -> list[float]:
        """Negative log-likelihoods of tokens 2 to last of one text, read from an empty cache in chunks; in nats."""
        raise NotImplementedError


def nll(logits: np.ndarray, targets: Sequence[int]) -> float:
    """Negative log-likelihood of `targets` under `logits` [len(targets), vocab]; a sum in nats."""
    return float(nlls(logits, targets).sum())


def nlls(logits: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Negative log-likelihood of each of `targets` under `logits` [len(targets), vocab], in nats."""
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    found: np.ndarray = norm - logits[np.arange(len(targets)), targets]
    return found


def chunks(tokens: Sequence[int], size: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    """A text's chunks, and the tokens that follow each of theirs: one fewer for the last."""
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size], tokens[start + 1 : start + 1 + size]


def peer_class(module: str) -> type[Peer]:
    """The class `System` of a module in this package."""
    found: type[Peer] = importlib.import_module(f"{__name__}.{module}").System
    return found
