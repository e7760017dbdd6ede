"""llama.cpp, through llama-cpp-python's low-level calls, on the GGUF file as it is or with another type of weights."""

import ctypes
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.peers import TILE, Peer, Rows, chunks, nll, nlls
from benchmarks.systems import gguf

MODEL = "model.gguf"

# llama.cpp's messages would fill the worker's log
_SILENT = llama_cpp.llama_log_callback(lambda level, text, data: None)


class System(Peer):
    """See Peer. `folder` is the GGUF file or holds one. Its cache is allocated whole, attention reads the used part.

    `type`: of the weights, as llama.cpp calls it. `cache`: of keys and values, such as "F32"; its default is F16.
    Activations are rounded to 8 bits in products with quantized weights. Flash attention is llama.cpp's own choice, and
    it does.
    """

    version = f"llama-cpp-python {version('llama-cpp-python')}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.threads = threads
        self.options = options
        file = folder / MODEL if folder.is_dir() else folder
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{options['type']}")
        params.allow_requantize = True  # from Q4_1 and Q8_0, which fp32 holds exactly
        if llama_cpp.llama_model_quantize(str(gguf()).encode(), str(folder / MODEL).encode(), params):
            raise RuntimeError("llama_model_quantize failed")

    def begin(self, batch: int, cache: int, unified: bool = False) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = batch * cache  # shared out among the rows
        params.n_seq_max = batch
        params.n_batch = 8192
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = self.threads
        if "cache" in self.options:
            params.type_k = params.type_v = getattr(llama_cpp, f"GGML_TYPE_{self.options['cache']}")
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.position = 0

    def step(self, tokens: Rows) -> list[int]:
        last = self._run(tokens, every=False)
        return [int(self._logits(index).argmax()) for index in last]

    def _run(self, tokens: Rows, every: bool) -> list[int]:
        """Decode; returns the index of each row's last token in the batch."""
        count = len(tokens[0])
        batch = llama_cpp.llama_batch_init(count * len(tokens), 0, 1)
        batch.n_tokens = count * len(tokens)
        index = 0
        for row, ids in enumerate(tokens):
            for offset, token in enumerate(ids):
                batch.token[index] = token
                batch.pos[index] = self.position + offset
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = row
                batch.logits[index] = every or offset == count - 1
                index += 1
        code = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")
        self.position += count
        return [count * (row + 1) - 1 for row in range(len(tokens))]

    def _logits(self, index: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, (self.vocab,))

    def end(self) -> None:
        llama_cpp.llama_free(self.context)

    def nll(self, windows: Rows) -> float:
        total = 0.0
        for row in windows:
            self.begin(1, 1024)
            self._run([row], every=True)
            total += nll(np.stack([self._logits(i) for i in range(len(row) - 1)]), row[1:])
            self.end()
        return total

    def fill(self, used: int, slots: int) -> None:
        """Read TILE tokens, restore them in other rows, and let the first row have them all: it is as slow, and made in
        a moment. Positions repeat, which a mask does not mind."""
        rows = -(-used // TILE)
        self.begin(rows, -(-slots // rows), unified=True)
        tokens = [5 + n % 1000 for n in range(min(used, TILE))]
        self._run([tokens], every=False)
        size = llama_cpp.llama_state_seq_get_size(self.context, 0)
        held = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data(self.context, held, size, 0)
        self.bytes_per_token = size / len(tokens)
        memory = llama_cpp.llama_get_memory(self.context)
        for row in range(1, rows):
            if not llama_cpp.llama_state_seq_set_data(self.context, held, size, row):
                raise RuntimeError("llama_state_seq_set_data failed")
            count = min(TILE, used - row * TILE)
            llama_cpp.llama_memory_seq_rm(memory, row, count, -1)
            llama_cpp.llama_memory_seq_cp(memory, row, 0, -1, -1)

    def cache_bytes(self) -> float:
        return self.bytes_per_token

    def read(self, tokens: Sequence[int], chunk: int) -> list[float]:
        self.begin(1, len(tokens))
        found: list[float] = []
        for part, targets in chunks(tokens, chunk):
            self._run([part], every=True)
            found += nlls(np.stack([self._logits(i) for i in range(len(targets))]), targets).tolist()
        self.end()
        return found

    def weight_bytes(self) -> int:
        return int(llama_cpp.llama_model_size(self.model))
