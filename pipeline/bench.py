"""Stage bench: measure the engine on this machine: prefill, decode, load time, memory and size.

bench.json: prefill_s (seconds for bench.prompt tokens per row), decode_tok_s (new tokens per second, of all rows) and
step_ms (one decode step), each the median of its repeats or steps; load_s, peak_mb, model_mb. For an engine of another
machine bench.json has the key `skipped` alone, with the reason.
latency.json: every decode step of the last repeat, for `dvc plots`.
To compare systems, use ratios of interleaved runs: other work on the machine changes every number.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.core import layout, machine, stage
from pipeline.core.files import write_json
from pipeline.core.schema import Bench, section
from pipeline.runtime.open import open_engine, why_unavailable
from pipeline.runtime.session import Runtime


@dataclass(frozen=True)
class Run:
    """Seconds of one prefill and of each decode step after it."""

    prefill: float
    steps: list[float]


def measure(runtime: Runtime, options: Bench) -> list[Run]:
    """Time bench.repeats runs of one session, after a short one to warm up."""
    runtime.finish_loading()
    session = runtime.session(options.batch)
    vocab = int(runtime.contract.logits.shape[2])
    prompts = np.random.default_rng(0).integers(0, vocab, (options.batch, options.prompt)).tolist()
    runs = []
    for repeat in range(options.repeats + 1):
        session.reset()
        start = time.perf_counter()
        logits = session.step(prompts)
        prefill = time.perf_counter() - start
        steps = []
        for _ in range(options.new_tokens if repeat else min(options.new_tokens, 4)):
            start = time.perf_counter()
            logits = session.step(logits[:, -1:].argmax(-1).tolist())
            steps.append(time.perf_counter() - start)
        runs.append(Run(prefill, steps))
    return runs[1:]


def main() -> None:
    """Run the stage in a point's folder."""
    options = section(Bench)
    folder = Path(layout.ENGINE)
    problem = why_unavailable(folder)
    if problem is not None:
        write_json(Path(layout.BENCH), {"skipped": problem.what})
        write_json(Path(layout.LATENCY), [])
        print(f"not measured: {problem.what}")
        return
    start = time.perf_counter()
    runtime = open_engine(folder)
    load = time.perf_counter() - start
    runs = measure(runtime, options)
    step = median(seconds for run in runs for seconds in run.steps)
    result = {
        "prefill_s": round(median(run.prefill for run in runs), 6),
        "decode_tok_s": round(options.batch / step, 2),
        "step_ms": round(step * 1e3, 3),
        "load_s": round(load, 4),
        "peak_mb": round(machine.peak_memory() / 2**20, 1),
        "model_mb": round(sum(f.stat().st_size for f in folder.iterdir()) / 2**20, 1),
    }
    write_json(Path(layout.BENCH), result)
    latency = [{"token": i, "ms": round(seconds * 1e3, 3)} for i, seconds in enumerate(runs[-1].steps)]
    write_json(Path(layout.LATENCY), latency)
    print(", ".join(f"{name} {value:g}" for name, value in result.items()))


if __name__ == "__main__":
    stage.run("bench", main)
