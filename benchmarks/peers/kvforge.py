"""This project: an engine folder, opened as its users open it."""

from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.peers import Peer, Rows, UnsupportedError, nll
from benchmarks.peers.onnx_weights import weight_bytes
from pipeline.core import layout
from pipeline.runtime.open import open_engine


class System(Peer):
    """See Peer. The engine's own engine.threads applies; with its default, 0, ONNX Runtime uses one per core."""

    version = f"onnxruntime {onnxruntime.__version__}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        self.folder = folder
        self.runtime = open_engine(folder)
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

    def weight_bytes(self) -> int:
        return weight_bytes(self.folder / layout.MODEL)
