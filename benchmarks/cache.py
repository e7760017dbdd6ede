"""A decode step over a cache in fp32, in 8 bits and in 4 bits.

    python -m pipeline -m experiment=long_context cache.size=32768 cache.dtype=auto,int8,int4
    python -m benchmarks.cache POINT POINT POINT

Steps of the points' engines are timed in turn after several numbers of tokens, over caches of random numbers, on one
thread and in processor time, which other processes disturb least. Writes cache.md.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.core import layout
from pipeline.runtime import quantized_cache
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Session

ARTIFACTS = Path("artifacts")
OUT = Path(__file__).parent / "cache.md"
DEPTHS = (1024, 8192, 32768)  # used slots, the new token's included
STEPS = 40
BITS = {"int8": "8 bits", "uint8": "4 bits"}


def filled(engine: Path, rng: np.random.Generator) -> Session:
    """A session of one row whose cache is full of random numbers."""
    session = open_engine(engine, threads=1).session(1)
    contract = session.contract
    for tensor, cache in zip(contract.caches, session.caches, strict=True):
        heads, slots, head_dim = int(cache.shape[1]), 1024, int(cache.shape[3]) * (2 if cache.dtype == np.uint8 else 1)
        some = quantized_cache.stored(contract, tensor, rng.standard_normal((heads, slots, head_dim), np.float32))
        cache[0] = np.tile(some, (1, -(-cache.shape[2] // slots), 1))[:, : cache.shape[2]]
    return session


def steps(sessions: dict[str, Session], used: int) -> dict[str, float]:
    """Milliseconds of processor time of a step of one token after which `used` slots are in use, median."""
    seconds = dict[str, list[float]]((name, []) for name in sessions)
    for repeat in range(STEPS + 1):
        for name, session in sessions.items():
            session.lengths[:] = used - 1
            start = time.process_time()
            session.step([[5]])
            if repeat:  # the first one reads weights and cache from afar
                seconds[name].append(time.process_time() - start)
    return {name: median(found) * 1e3 for name, found in seconds.items()}


def table(points: list[Path]) -> str:
    """One line for each engine."""
    rng = np.random.default_rng(0)
    sessions = {}
    for point in points:
        session = filled(point / layout.ENGINE, rng)
        dtype = session.contract.caches[0].dtype
        sessions[BITS.get(dtype, dtype)] = session
    size = next(iter(sessions.values())).contract.cache_size
    depths = [used for used in DEPTHS if used <= size]
    times = {used: steps(sessions, used) for used in depths}
    first = next(iter(sessions))
    columns = "".join(f" {used:,} used: ms | faster |" for used in depths)
    made = f"# Quantized caches\n\n| cache | bytes of a token |{columns}\n"
    made += f"|---|--:|{'--:|--:|' * len(depths)}\n"
    for name, session in sessions.items():
        bytes_ = sum(cache.nbytes for cache in session.caches) // size
        cells = "".join(f" {times[used][name]:.1f} | {times[used][first] / times[used][name]:.2f} |" for used in depths)
        made += f"| {name} | {bytes_:,} |{cells}\n"
    return made


def main() -> None:
    """Measure the points on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", nargs="+", help="names in artifacts/, the one to compare with first")
    names = parser.parse_args().points
    made = table([ARTIFACTS / name for name in names])
    made += f"""
* `python -m benchmarks.cache {" ".join(names)}`.
* Milliseconds of processor time on one thread, one row and one token; medians of {STEPS} steps, in turn.
"""
    OUT.write_text(made, encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
