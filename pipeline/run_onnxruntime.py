"""Run an ONNX model of the contract in ONNX Runtime, with past and present of each cache in one buffer.

Both sides of every alias are bound to the same memory, so TensorScatter writes in place and a step copies no
cache. On the CPU the memory is the session's numpy arrays.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort

from pipeline import pages
from pipeline.cores import cores
from pipeline.layout import DATA
from pipeline.session import Array, Bounds, Runtime, Session
from pipeline.signature import LOGITS, Signature

# Its blockwise attention loses on the CPU: 512 tokens of SmolLM2-135M take 191 ms in it, 106 without; a decode step
# the same.
os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class OnnxRuntime(Runtime):
    """An ONNX file loaded on the CPU. `threads`: 0 for one per core that this process may use."""

    def __init__(
        self, model: Path, signature: Signature, bounds: Bounds, *, optimization: str = "all", threads: int = 0
    ) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[optimization]
        options.intra_op_num_threads = threads or cores()
        # It fuses DequantizeLinear and MatMul, and would round activations to 8 bits there (0.6 % off); 1: it does not.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        self.signature = signature
        self.bounds = bounds
        self.inference = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        pages.forget(model.parent / DATA)
        pages.enlarge()

    def session(self, batch: int) -> "OnnxRuntimeSession":
        return OnnxRuntimeSession(self, batch)


class OnnxRuntimeSession(Session):
    """See Session."""

    # its products run no faster on more rows, its attention slower: a prompt of 512 tokens takes 4 % less in two,
    # and memory for activations does not grow with the prompt
    piece = 256

    def __init__(self, runtime: OnnxRuntime, batch: int) -> None:
        super().__init__(runtime.signature, runtime.bounds, batch)
        self._inference = runtime.inference
        self._binding = self._inference.io_binding()
        present = {past: new for new, past in self.signature.aliases.items()}
        for tensor, cache in zip(self.signature.caches, self.caches, strict=True):
            where = ("cpu", 0, cache.dtype.type, cache.shape, cache.ctypes.data)
            self._binding.bind_input(tensor.name, *where)
            self._binding.bind_output(present[tensor.name], *where)

    def _run(self, feeds: dict[str, Array]) -> Array:
        for name, value in feeds.items():
            self._binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        logits = self.signature.logits
        out = np.empty(logits.sized(batch=self.batch, sequence=feeds["input_ids"].shape[1]), logits.dtype)
        self._binding.bind_output(LOGITS, "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        self._inference.run_with_iobinding(self._binding)
        return out
