"""Run an engine for clients (engine=onnxruntime_client) in sessions of our own, with the inputs that clients give."""

from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline.core.arrays import Array
from pipeline.runtime import onnxruntime
from pipeline.runtime.engine_info import EngineInfo
from pipeline.runtime.onnxruntime import OnnxRuntime, OnnxRuntimeSession
from pipeline.runtime.onnxruntime import why_unavailable as why_unavailable


class ClientRuntime(OnnxRuntime):
    """See OnnxRuntime."""

    def session(self, batch: int) -> "ClientSession":
        return ClientSession(self, batch)


def open_engine(folder: Path, info: EngineInfo, threads: int | None) -> OnnxRuntime:
    """Load the engine in `folder`. Raises UserError when it needs a later version or a provider that is not here."""
    return onnxruntime.load(ClientRuntime, folder, info, threads)


class ClientSession(OnnxRuntimeSession):
    """See Session. Several new tokens of several rows, after a cache that is not empty, are run row by row: the graph
    takes them for one row only."""

    @cached_property
    def _rows(self) -> list["ClientSession"]:
        """A session for each row, over this session's caches."""
        rows = [ClientSession(self._loaded, 1) for _ in range(self.batch)]
        for number, row in enumerate(rows):
            row._caches = [cache[number : number + 1] for cache in self._caches]
            row._bind_caches()
        return rows

    def _run(self, feeds: dict[str, Array]) -> Array:
        position, counts = feeds["cache_position"], feeds["attention_mask"].sum(1)
        sequence = feeds["input_ids"].shape[1]
        if self.batch > 1 and sequence > 1 and position.any():
            return self._row_by_row(feeds, counts)
        used = position + counts
        mask = (np.arange(used.max()) < used[:, None]).astype(np.int64)
        rest = {name: value for name, value in feeds.items() if name != "cache_position"}
        return super()._run(rest | {"attention_mask": mask})

    def _row_by_row(self, feeds: dict[str, Array], counts: Array) -> Array:
        """Run each row's new tokens by themselves; logits of padding, and of rows without tokens, are 0."""
        logits = self.contract.logits
        out = np.zeros(logits.sized(batch=self.batch, sequence=feeds["input_ids"].shape[1]), logits.dtype)
        for number, (row, count) in enumerate(zip(self._rows, counts.tolist(), strict=True)):
            if count:
                tokens = ("input_ids", "attention_mask", "position_ids")
                one = {name: np.ascontiguousarray(feeds[name][number : number + 1, :count]) for name in tokens}
                answer = row._run(one | {"cache_position": feeds["cache_position"][number : number + 1]})
                out[number, : answer.shape[1]] = answer[0]
        return out
