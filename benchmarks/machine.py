"""What the machine can do: how fast it reads memory."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

BYTES = 2**30


def bandwidth(count: int, repeats: int = 3) -> float:
    """Bytes a second: 1 GB of memory read once by `count` threads; the best of all methods and repeats.

    The best counts, because a method that computes for longer than it reads shows the cores and not the memory.
    """
    import torch

    torch.set_num_threads(count)
    buffer = np.ones(BYTES // 4, np.float32)
    parts = np.array_split(buffer, count)
    whole = torch.from_numpy(buffer)
    matrix, vector = whole.view(-1, 1024), torch.ones(1024)
    with ThreadPoolExecutor(count) as pool:
        methods: list[Callable[[], object]] = [
            lambda: list(pool.map(np.max, parts)),
            lambda: whole.sum(),
            lambda: matrix @ vector,
        ]
        return BYTES / min(_seconds(method) for method in methods for _ in range(repeats))


def gpu_bandwidth(repeats: int = 7) -> float:
    """Bytes a second of the first GPU: the best of summing 4 GB."""
    import torch

    buffer = torch.ones(BYTES, dtype=torch.float32, device="cuda")
    best = float("inf")
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        buffer.sum()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3)
    return buffer.nbytes / best


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
