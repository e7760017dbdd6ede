"""Hybrids of some 300 million parameters after short and long texts, beside PyTorch.

    python -m benchmarks.states

Qwen3.5 has the gated delta rule in three of four layers, LFM2 short convolutions in 10 of 16. Random weights in fp32,
built for ONNX Runtime on the CPU; PyTorch runs transformers' own model and cache. Each runs in a process of its own, in
turn, over random keys, values and states. Writes states.md.
"""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.in_process import composed, run, write_point
from benchmarks.worker import held_mb
from pipeline import engine, export, quantize, simplify, wrap
from pipeline.core import layout
from pipeline.core.schema import Model, section
from pipeline.runtime.open import open_engine

SCRATCH = Path(".bench/states")
OUT = Path(__file__).parent / "states.md"
CACHE = 8192
DEPTHS = (100, 8000)
STEPS, ROUNDS = 10, 5
OURS, THEIRS = "kvforge", "PyTorch"
OVERRIDES = ["axes=single", "profile=single", f"cache.size={CACHE}", "engine=onnxruntime_cpu", "precision=fp32"]
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_5_text": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 16,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "vocab_size": 65536,
        "tie_word_embeddings": True,
        "max_position_embeddings": CACHE,
    },
    "lfm2": {
        "hidden_size": 1024,
        "intermediate_size": 4608,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "vocab_size": 65536,
        "tie_word_embeddings": True,
        "max_position_embeddings": CACHE,
    },
}


def build(kind: str) -> Path:
    """Build the engine of a model, unless it is there."""
    point = SCRATCH / kind
    if not (point / layout.ENGINE).exists():
        model = {"source": "random", "architecture": kind, "config": MODELS[kind], "seed": 0}
        write_point(point, composed(["experiment=tiny", *OVERRIDES]) | {"model": model})
        for stage in (wrap, export, simplify, quantize, engine):
            run(stage, point)
    return point


def ours(point: Path, depth: int) -> Callable[[int], None]:
    """A session's step after `depth` tokens."""
    session = open_engine(point / layout.ENGINE, threads=1).session(1)
    rng = np.random.default_rng(0)
    for cache in session.caches:
        cache[:, :, :depth] = rng.standard_normal(cache[:, :, :depth].shape, np.float32)
    session.write_states([rng.standard_normal(state.shape, np.float32) for state in session.states])
    session.lengths[:] = depth
    return lambda token: void(session.step([[token]]))


def theirs(point: Path, depth: int) -> Callable[[int], None]:
    """A step of transformers' model after `depth` tokens."""
    import torch

    from pipeline.checkpoint import loading
    from pipeline.model.arguments import with_cache
    from pipeline.model.states.original import empty_cache

    torch.set_num_threads(1)
    model = loading.load(section(Model, point), None)
    cache = empty_cache(model)
    arguments = with_cache(model, cache)
    with torch.inference_mode():
        model(input_ids=torch.tensor([[5]]), **arguments)  # makes the states
        for layer in cache.layers:
            if getattr(layer, "keys", None) is not None:
                size = (*layer.keys.shape[:2], depth, layer.keys.shape[3])
                layer.keys, layer.values = torch.randn(size), torch.randn(size)

    def step(token: int) -> None:
        with torch.inference_mode():
            model(input_ids=torch.tensor([[token]]), **arguments)

    return step


def void(_: object) -> None:
    """Forget a result."""


def serve(system: str, point: Path, depth: int, answers: Connection) -> None:
    """Load a model, send its peak memory after a step in MB, then the seconds of as many steps as are asked."""
    step = {OURS: ours, THEIRS: theirs}[system](point, depth)
    step(7)
    answers.send(held_mb("VmRSS"))
    rng = np.random.default_rng(0)
    while count := answers.recv():
        seconds = []
        for token in rng.integers(3, 65536, count).tolist():
            start = time.process_time()
            step(token)
            seconds.append(time.process_time() - start)
        answers.send(seconds)


def measured(context: Any, point: Path) -> dict[tuple[str, int], tuple[float, float]]:
    """(system, depth) -> milliseconds of a step, and memory in MB."""
    runs = [(system, depth) for depth in DEPTHS for system in (OURS, THEIRS)]
    pipes, memory = {}, {}
    for key in runs:
        pipes[key], other = context.Pipe()
        context.Process(target=serve, args=(key[0], point, key[1], other), daemon=True).start()
        memory[key] = pipes[key].recv()
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(ROUNDS):
        for key in runs:
            pipes[key].send(STEPS)
            seconds[key] += pipes[key].recv()
    for pipe in pipes.values():
        pipe.send(0)
    return {key: (median(times) * 1e3, memory[key]) for key, times in seconds.items()}


def main() -> None:
    """Build both, measure them, and write the page."""
    context = multiprocessing.get_context("spawn")
    lines = [
        "# States of one size for all texts\n",
        f"| model | system | {' | '.join(f'ms a step after {depth:,}' for depth in DEPTHS)} | "
        f"{' | '.join(f'MB after {depth:,}' for depth in DEPTHS)} |",
        f"|---|---|{'--:|' * 2 * len(DEPTHS)}",
    ]
    sizes = []
    for kind in MODELS:
        with context.Pool(1, maxtasksperchild=1) as builder:  # its memory goes with its process
            point = builder.apply(build, (kind,))
        found = measured(context, point)
        for system in (OURS, THEIRS):
            times, held = zip(*(found[system, depth] for depth in DEPTHS), strict=True)
            cells = [*(f"{ms:.1f}" for ms in times), *(f"{mb:,.0f}" for mb in held)]
            lines.append(f"| {kind} | {system} | {' | '.join(cells)} |")
        contract = open_engine(point / layout.ENGINE, threads=1).contract
        kept = {
            what: sum(np.prod(t.sized(batch=1)) for t in tensors) * 4 / 2**20
            for what, tensors in (("caches", contract.caches), ("states", contract.states))
        }
        sizes.append(f"{kind}: caches of {kept['caches']:,.0f} MB, states of {kept['states']:,.1f} MB")
    lines += [
        "",
        f"* `python -m benchmarks.states`. Milliseconds of processor time on one thread, medians of {STEPS * ROUNDS}",
        f"  steps in turn; memory of the process after a step. {CACHE:,} slots, fp32.",
        *(f"* {size}." for size in sizes),
    ]
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
