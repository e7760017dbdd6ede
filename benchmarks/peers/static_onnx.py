"""An ONNX graph with a static cache, run by plain ONNX Runtime, past and present of each cache in one buffer."""

from pathlib import Path

import numpy as np
import onnxruntime as ort


class StaticSession:
    """`pairs`: cache input -> cache output. The arrays of `caches` are bound to both sides."""

    def __init__(self, model: Path, pairs: dict[str, str], threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.pairs = pairs
        self.types = {tensor.name: tensor for tensor in self.session.get_inputs()}

    def begin(self, caches: dict[str, np.ndarray]) -> None:
        """Bind empty caches."""
        self.caches = caches
        self.binding = self.session.io_binding()
        for name, cache in caches.items():
            where = ("cpu", 0, cache.dtype.type, cache.shape, cache.ctypes.data)
            self.binding.bind_input(name, *where)
            self.binding.bind_output(self.pairs[name], *where)

    def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """One step: the logits, the caches written."""
        for name, value in feeds.items():
            self.binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        self.binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(self.binding)
        return self.binding.get_outputs()[-1].numpy()  # in the order in which they were first bound

    def end(self) -> None:
        """Free the caches."""
        del self.caches, self.binding
