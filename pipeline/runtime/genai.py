"""Run an engine for clients in onnxruntime-genai itself, as its users do: its own masks, positions and caches.

It does not show its caches, and it takes the tokens of a batch all at once, then one of each row at a time. Tokens are
put in place of its own choices by setting its logits. Verify compares with this; it is not a faster way to run.
"""

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.arrays import Array
from pipeline.core.errors import Problem, UserError
from pipeline.core.machine import cores
from pipeline.runtime import engine_info
from pipeline.runtime.session import Runtime, Session

PACKAGE = "onnxruntime-genai"
LARGEST_BATCH = 32  # kMaxBatchSize in its source
CHOSEN = 1e4  # the logit of a token that is put in place; all others are 0


def why_unavailable() -> str | None:
    """Why onnxruntime-genai does not run here; None when it should."""
    try:
        version(PACKAGE)
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed: pip install -e '.[clients]'"
    return None


class Genai(Runtime):
    """The engine in `folder`, loaded by onnxruntime-genai. Raises UserError where that is not installed."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        missing = why_unavailable()
        if missing is not None:
            raise UserError(Problem(missing, str(folder), "or use pipeline.runtime.open"))
        info = engine_info.read(folder)
        self.contract, self.profiles = info.contract, info.profiles
        self.folder, self.threads = folder, threads or cores()
        self.end = -1  # the token that ends a text, and pads
        self.model: Any = None

    def load(self, unused: int) -> None:
        """Load it with `unused`, a token that does not occur, as the one that ends a text: one that ends a row ends it
        for good."""
        if unused == self.end:
            return
        import onnxruntime_genai as og

        config = og.Config(str(self.folder))
        # a number takes the place of the stop tokens, a list would be added to them
        session = {"session_options": {"intra_op_num_threads": self.threads}}
        config.overlay(json.dumps({"model": {"eos_token_id": unused, "pad_token_id": unused, "decoder": session}}))
        self.model = None  # so that its weights leave memory
        self.model, self.end = og.Model(config), unused

    def inexpressible(self, cached: Sequence[int], steps: Sequence[Sequence[int]]) -> str:
        if any(cached):
            return f"{PACKAGE} does not let its caches be filled"
        used = np.zeros(len(cached), np.int64)
        for step in steps:
            reason = _refused(used, step)
            if reason:
                return reason
            used += step
        return ""

    def session(self, batch: int) -> "GenaiSession":
        return GenaiSession(self, batch)


def _refused(used: Array, counts: Sequence[int]) -> str:
    """Why it cannot run a step; empty when it can."""
    if len(used) > LARGEST_BATCH:
        return f"{PACKAGE} takes {LARGEST_BATCH} rows at most"
    if min(counts) == 0:
        return f"{PACKAGE} gives every row a token in every step"
    if len(used) > 1 and used.any() and max(counts) > 1:
        return f"{PACKAGE} takes several tokens of several rows into empty caches only"
    return ""


class GenaiSession(Session):
    """See Session. Its caches cannot be seen, and no tokens taken back but all."""

    shows_caches = False

    def __init__(self, runtime: Genai, batch: int) -> None:
        super().__init__(runtime.contract, runtime.profiles, batch)
        self._runtime = runtime
        self._rows: list[list[int]] = [[] for _ in range(batch)]
        self._generator: Any = None

    def check(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        chunks = super().check(tokens)
        reason = _refused(self.lengths, [len(row) for row in tokens])
        if reason:
            raise UserError(Problem(reason, "tokens", "use a session of engine=onnxruntime_client by kvforge"))
        return chunks

    def _run(self, feeds: dict[str, Array]) -> Array:
        if not self.lengths.any():
            self._rows, self._generator = [[] for _ in self._rows], None
        counts, ids = feeds["attention_mask"].sum(1), feeds["input_ids"]
        for row, count, new in zip(self._rows, counts.tolist(), ids.tolist(), strict=True):
            row += new[:count]
        last = [row[-1] for row in self._rows]
        if self._generator is not None and self.batch == 1:
            self._generator.append_tokens(ids.astype(np.int32))
        elif self._generator is None or self._runtime.end in last:
            return self._read_all(counts)
        else:
            logits = np.zeros((self.batch, 1, self._vocab), np.float32)
            logits[np.arange(self.batch), 0, last] = CHOSEN
            self._generator.set_logits(logits)
            self._generator.generate_next_token()
        return self._logits()

    def _read_all(self, counts: Array) -> Array:
        """Read all tokens of all rows from the start; logits of the last `counts` of each row."""
        import onnxruntime_genai as og

        known = {token for row in self._rows for token in row}
        self._generator = None
        self._runtime.load(next(token for token in reversed(range(self._vocab)) if token not in known))
        lengths = [len(row) for row in self._rows]
        params = og.GeneratorParams(self._runtime.model)
        params.set_search_options(max_length=self.contract.cache_size, batch_size=self.batch, do_sample=False)
        self._generator = og.Generator(self._runtime.model, params)
        padded = np.full((self.batch, max(lengths)), self._runtime.end, np.int32)
        for number, row in enumerate(self._rows):
            padded[number, : len(row)] = row
        self._generator.append_tokens(padded)
        logits = self._logits()
        if logits.shape[1] == 1:
            return logits
        out = np.zeros((self.batch, int(counts.max()), self._vocab), logits.dtype)
        for number, (length, count) in enumerate(zip(lengths, counts.tolist(), strict=True)):
            out[number, :count] = logits[number, length - count : length]
            out[number, count:] = logits[number, length : length + out.shape[1] - count]
        return out

    def _logits(self) -> Array:
        """The graph's own logits of the last run."""
        self._generator.get_logits()  # runs the model for the tokens that are new
        return np.array(self._generator.get_output("logits"))
