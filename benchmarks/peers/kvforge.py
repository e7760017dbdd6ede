"""This project: an engine folder, opened as its users open it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.peers import TILE, Peer, Rows, UnsupportedError, chunks, nll, nlls
from benchmarks.peers.onnx_weights import weight_bytes
from pipeline.core import layout
from pipeline.runtime import quantized_cache
from pipeline.runtime.open import open_engine


class System(Peer):
    """See Peer. The engine's own engine.threads applies, unless `threads` is given; with its default, 0, ONNX Runtime
    uses one per core."""

    version = f"onnxruntime {onnxruntime.__version__}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        self.folder = folder
        self.runtime = open_engine(folder, threads=options.get("threads"))
        self.runtime.finish_loading()

    def begin(self, batch: int, cache: int) -> None:
        size = self.runtime.contract.cache_size
        if cache != size:
            raise UnsupportedError(f"the engine's cache has {size} slots")
        self.session = self.runtime.session(batch)

    def step(self, tokens: Rows) -> list[int]:
        longest = self.runtime.profiles.max("sequence")
        for start in range(0, len(tokens[0]), longest):
            logits = self.session.step([row[start : start + longest] for row in tokens])
        return logits[:, -1].argmax(-1).tolist()

    def end(self) -> None:
        del self.session

    def nll(self, windows: Rows) -> float:
        """Token by token, up to 8 windows at once: the engine gives logits at the last position only."""
        total = 0.0
        for start in range(0, len(windows), 8):
            rows = windows[start : start + 8]
            session = self.runtime.session(len(rows))
            for position in range(len(rows[0]) - 1):
                logits = session.step([row[position : position + 1] for row in rows])
                total += nll(logits[:, -1], [row[position + 1] for row in rows])
        return total

    def fill(self, used: int, slots: int) -> None:
        self.begin(1, self.runtime.contract.cache_size)
        contract, rng = self.runtime.contract, np.random.default_rng(0)
        for tensor, cache in zip(contract.caches, self.session.caches, strict=True):
            shape = int(cache.shape[1]), TILE, len(contract.scales.get(tensor.name, [[]])[0]) or int(cache.shape[3])
            some = quantized_cache.stored(contract, tensor, rng.standard_normal(shape, np.float32))
            for start in range(0, min(slots, cache.shape[2]), TILE):  # slots beyond stay without memory
                part = cache[0, :, start : start + TILE]
                part[...] = some[:, : part.shape[1]]
        self.session.lengths[:] = used

    def cache_bytes(self) -> float:
        return sum(cache.nbytes for cache in self.session.caches) / self.runtime.contract.cache_size

    def read(self, tokens: Sequence[int], chunk: int) -> list[float]:
        if self.runtime.contract.logits.shape[1] == 1:
            raise UnsupportedError("the engine has logits at the last token only: build it with wrap.logits=all")
        self.begin(1, self.runtime.contract.cache_size)
        return [
            value
            for part, targets in chunks(tokens, chunk)
            for value in nlls(self.session.step([list(part)])[0, : len(targets)], targets).tolist()
        ]

    def weight_bytes(self) -> int:
        return weight_bytes(self.folder / layout.MODEL)
