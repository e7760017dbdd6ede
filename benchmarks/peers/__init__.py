"""The systems: one module each, all behind `Peer`. A peer's packages are imported in its own module only."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Rows = Sequence[Sequence[int]]


class CannotError(Exception):
    """The system cannot do what is asked; the message says why, in the words of a table's footnote."""


class Peer(ABC):
    """A system with its model loaded, on `threads` threads. `version`: of the package that computes."""

    version: str

    @abstractmethod
    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        """Load the model that `build` left in `folder`."""

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        """Convert the Hugging Face folder `checkpoint` into what __init__ loads. Systems that load it as it is
        leave this out."""
        raise NotImplementedError

    @abstractmethod
    def begin(self, batch: int, cache: int) -> None:
        """Make an empty cache of `batch` rows and `cache` slots (a growing one needs no size). Raises CannotError."""

    @abstractmethod
    def step(self, tokens: Rows) -> list[int]:
        """Read equally many new tokens in each row; returns each row's most probable next token."""

    @abstractmethod
    def end(self) -> None:
        """Free what `begin` made."""

    @abstractmethod
    def surprise(self, windows: Rows) -> float:
        """Sum of -log p of tokens 2 to last of each window, each read from an empty cache."""

    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of weights that one decode step reads: all but the embedding's table, unless the head shares it."""


def surprise(logits: np.ndarray, targets: Sequence[int]) -> float:
    """Sum of -log p of `targets` under `logits` [len(targets), vocab]."""
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    norm = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
    return float((norm - logits[np.arange(len(targets)), targets]).sum())


def peer_class(module: str) -> type[Peer]:
    """The class `System` of a module in this package."""
    found: type[Peer] = importlib.import_module(f"{__name__}.{module}").System
    return found
