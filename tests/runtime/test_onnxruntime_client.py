"""ClientSession: several tokens of several rows, where the graph takes one row."""

from pathlib import Path

import numpy as np

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.runtime.onnxruntime_client import ClientRuntime
from pipeline.runtime.open import open_engine


def test_chunks_of_rows_write_into_the_sessions_caches(client: tuple[Path, GraphContract]) -> None:
    """What a row gets in a batch is what it gets alone, and nothing is copied."""
    runtime = open_engine(client[0] / layout.ENGINE)
    assert isinstance(runtime, ClientRuntime)
    both, alone = runtime.session(2), runtime.session(1)
    addresses = [cache.ctypes.data for cache in both.caches]
    for tokens in ([[1, 2, 3], [4]], [[5, 6], [7, 8]], [[9], [10]]):
        got, want = both.step(tokens), alone.step(tokens[1:])
        np.testing.assert_allclose(got[1], want[0], atol=1e-5)
    assert [cache.ctypes.data for cache in both.caches] == addresses
    for cache, one in zip(both.caches, alone.caches, strict=True):
        np.testing.assert_allclose(cache[1, :, :4], one[0, :, :4], atol=1e-5)
