"""mobius: a model declared anew in ONNX, with a static cache; run by ONNX Runtime."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Rows, UnsupportedError, nll
from benchmarks.peers.onnx_weights import weight_bytes
from benchmarks.peers.static_onnx import StaticSession
from benchmarks.systems import gguf

CACHE = 1024


class System(Peer):
    """See Peer. The cache size is a constant of the graph."""

    version = f"mobius-onnx {version('mobius-onnx')}, onnxruntime {version('onnxruntime')}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        self.model = folder / "model.onnx"
        self.onnx = StaticSession(self.model, {}, threads)
        self.onnx.pairs = {name: f"updated_{name}" for name in self.onnx.types if "_cache." in name}

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        from mobius import CausalLMTask, build, build_from_gguf

        # int4: the file's own 4 bits, its offsets rounded to whole steps; the head in fp32
        if options["precision"] == "int4":
            static = {"static_cache": True, "max_seq_len": CACHE}
            package = build_from_gguf(gguf(), keep_quantized=True, execution_provider="cpu", **static)
        else:
            task = CausalLMTask(static_cache=True, max_seq_len=CACHE)
            package = build(str(checkpoint), task=task, dtype="f32", execution_provider="cpu")
        package.save(str(folder))

    def begin(self, batch: int, cache: int) -> None:
        if cache != CACHE:
            raise UnsupportedError(f"built for a cache of {CACHE} slots")
        self.position, self.batch = 0, batch
        self.onnx.begin(
            {name: np.zeros((batch, *self.onnx.types[name].shape[1:]), np.float32) for name in self.onnx.pairs}
        )

    def step(self, tokens: Rows) -> list[int]:
        return self._run(tokens)[:, -1].argmax(-1).tolist()

    def _run(self, tokens: Rows) -> np.ndarray:
        ids = np.array(tokens)
        positions = np.broadcast_to(np.arange(self.position, self.position + ids.shape[1]), ids.shape)
        feeds = {
            "input_ids": ids,
            "position_ids": np.ascontiguousarray(positions),
            "write_indices": np.full(len(ids), self.position),
            "nonpad_kv_seqlen": np.full(len(ids), self.position + ids.shape[1]),
        }
        self.position += ids.shape[1]
        return self.onnx.run(feeds)

    def end(self) -> None:
        self.onnx.end()

    def nll(self, windows: Rows) -> float:
        total = 0.0
        for row in windows:
            self.begin(1, CACHE)
            total += nll(self._run([row])[0, :-1], row[1:])
        return total

    def weight_bytes(self) -> int:
        return weight_bytes(self.model)
