"""transformers.exporters: transformers' own ONNX export with a static cache, run by ONNX Runtime."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import transformers

from benchmarks.peers import Peer, Rows, nll
from benchmarks.peers.onnx_weights import weight_bytes
from benchmarks.peers.static_onnx import StaticSession

MODEL = "model.onnx"


class System(Peer):
    """See Peer. One graph reads prompts and decodes, for any batch and cache size; its mask is the caller's work."""

    version = f"transformers {transformers.__version__}, onnxruntime {onnxruntime.__version__}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        self.model = folder / MODEL
        inputs = [tensor.name for tensor in onnx.load(self.model, load_external_data=False).graph.input]
        pairs = {name: "output." + name[6:] for name in inputs if name.startswith("input.")}
        self.onnx = StaticSession(self.model, pairs, threads)

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.exporters import OnnxConfig, OnnxExporter
        from transformers.exporters.utils import decompose_for_generation

        model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        sample = torch.arange(16).reshape(2, 8)  # two rows: of one, the exporter would make a constant
        static = GenerationConfig(cache_implementation="static", max_cache_len=32, do_sample=False)
        inputs = {"input_ids": sample, "attention_mask": torch.ones_like(sample)}
        part, example = decompose_for_generation(model, inputs, generation_config=static, multi_token_decode=True)[
            "decode"
        ]
        config = OnnxConfig(dynamic=True, ort_fusions=options.get("fusions"))
        exported = OnnxExporter().export(part, copy.deepcopy(example), config)
        exported.save_pretrained(folder)

    def begin(self, batch: int, cache: int) -> None:
        self.position, self.slots = 0, np.arange(cache)
        self.onnx.begin({name: _empty(self.onnx.types[name], batch, cache) for name in self.onnx.pairs})

    def step(self, tokens: Rows) -> list[int]:
        return self._run(tokens)[:, -1].argmax(-1).tolist()

    def _run(self, tokens: Rows) -> np.ndarray:
        ids = np.array(tokens)
        batch, count = ids.shape
        positions = np.arange(self.position, self.position + count)
        mask = np.broadcast_to(self.slots <= positions[:, None], (batch, 1, count, len(self.slots)))
        feeds = {
            "input_ids": ids,
            "attention_mask": np.ascontiguousarray(mask),
            "position_ids": np.ascontiguousarray(np.broadcast_to(positions, (batch, count))),
        }
        self.position += count
        return self.onnx.run({name: value for name, value in feeds.items() if name in self.onnx.types})

    def end(self) -> None:
        self.onnx.end()

    def nll(self, windows: Rows) -> float:
        total = 0.0
        for row in windows:
            self.begin(1, len(row))
            total += nll(self._run([row])[0, :-1], row[1:])
        return total

    def weight_bytes(self) -> int:
        return weight_bytes(self.model)


def _empty(tensor: Any, batch: int, cache: int) -> np.ndarray:
    """A cache [batch, heads, cache, head] of zeros, or the counter of what is used."""
    if "int64" in tensor.type:
        return np.zeros([1] * len(tensor.shape), np.int64)
    heads, head = (int(tensor.shape[axis]) for axis in (1, 3))  # the exporter leaves them as names, "3" and "64"
    return np.zeros((batch, heads, cache, head), np.float32)
