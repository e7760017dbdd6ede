"""A mixture of experts of real proportions beside a dense model with as many active parameters.

    python -m benchmarks.experts --layers 4

Both have the sizes of Qwen3-30B-A3B (128 experts, 8 of them for a token) but for the number of layers, random weights
in fp32, and are built for ONNX Runtime on the CPU. Each runs in a process of its own: it reads 512 tokens, and says its
peak memory; then steps of one token are timed in turn. Writes experts.md.
"""

import argparse
import multiprocessing
import shutil
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.in_process import composed, run, write_point
from benchmarks.worker import held_mb
from pipeline import engine, export, quantize, simplify, wrap
from pipeline.core import layout
from pipeline.runtime.open import open_engine

SCRATCH = Path(".bench/experts")
OUT = Path(__file__).parent / "experts.md"
CHOSEN, INTERMEDIATE = 8, 768  # experts of a token, width of each
SIZES: dict[str, Any] = {
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
MODELS: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"num_experts": 128, "num_experts_per_tok": CHOSEN, "moe_intermediate_size": INTERMEDIATE},
    "qwen3": {"intermediate_size": CHOSEN * INTERMEDIATE},
}
# stage -> the files with weights that no later stage reads
READ = {
    export: (f"{layout.WRAPPED}/{layout.PROGRAM}",),
    simplify: (f"{layout.ONNX}/{layout.DATA}",),
    engine: (f"{layout.SIMPLIFIED}/{layout.DATA}",),
}
PROMPT, STEPS, ROUNDS = 512, 16, 5
OVERRIDES = ["axes=single", "profile=single", "cache.size=1024", "engine=onnxruntime_cpu", "precision=fp32"]
HEAD = """# A mixture of experts of real proportions

| | weights, GB | peak memory with a prompt of {prompt} tokens, GB | peak / weights | ms a step |
|---|--:|--:|--:|--:|
"""


def build(kind: str, layers: int) -> Path:
    """Build the engine of a model, unless it is there; no other copy of the weights is kept."""
    point = SCRATCH / f"{kind}_{layers}"
    if not (point / layout.ENGINE).exists():
        shutil.rmtree(point, ignore_errors=True)
        config = {**SIZES, **MODELS[kind], "num_hidden_layers": layers}
        model = {"source": "random", "architecture": kind, "config": config, "seed": 0}
        write_point(point, composed(["experiment=tiny", *OVERRIDES]) | {"model": model})
        for stage in (wrap, export, simplify, quantize, engine):
            run(stage, point)
            for copy in READ.get(stage, ()):
                (point / copy).unlink()
    return point / layout.ENGINE


def serve(folder: Path, answers: Connection) -> None:
    """Load an engine, send its peak memory with a prompt in bytes, then the seconds of as many steps as are asked."""
    session = open_engine(folder, threads=1).session(1)
    rng = np.random.default_rng(0)
    vocab = SIZES["vocab_size"]
    session.step([rng.integers(0, vocab, PROMPT).tolist()])
    answers.send(held_mb("VmHWM") * 2**20)
    while count := answers.recv():
        seconds = []
        for token in rng.integers(0, vocab, count).tolist():
            start = time.process_time()
            session.step([[token]])
            seconds.append(time.process_time() - start)
        answers.send(seconds)


def main() -> None:
    """Build both, measure them in turn, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    layers = parser.parse_args().layers
    context = multiprocessing.get_context("spawn")
    builder = context.Pool(1, maxtasksperchild=1)  # its memory goes with its process
    folders = {kind: builder.apply(build, (kind, layers)) for kind in MODELS}
    builder.terminate()
    pipes: dict[str, Connection] = {}
    peaks: dict[str, float] = {}
    for kind, folder in folders.items():
        pipes[kind], other = context.Pipe()
        context.Process(target=serve, args=(folder, other), daemon=True).start()
        peaks[kind] = pipes[kind].recv()
    seconds = dict[str, list[float]]((kind, []) for kind in MODELS)
    for _ in range(ROUNDS):
        for kind, pipe in pipes.items():
            pipe.send(STEPS)
            seconds[kind] += pipe.recv()
    for pipe in pipes.values():
        pipe.send(0)
    made = HEAD.format(prompt=PROMPT)
    steps = {kind: median(times) * 1e3 for kind, times in seconds.items()}
    for kind, folder in folders.items():
        weights = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        sizes = f"{weights / 1e9:.2f} | {peaks[kind] / 1e9:.2f} | {peaks[kind] / weights:.2f}"
        made += f"| {kind} | {sizes} | {steps[kind]:.1f} |\n"
    experts, dense = steps.values()
    made += f"""
* `python -m benchmarks.experts --layers {layers}`. {layers} of the 48 layers of Qwen3-30B-A3B, in its sizes: 128
  experts of width {INTERMEDIATE}, {CHOSEN} for a token; the dense model's layers have a width of
  {CHOSEN * INTERMEDIATE}. fp32.
* A step takes {experts / dense:.2f} times as long as the dense model's. Milliseconds of processor time on one thread,
  medians of {ROUNDS * STEPS} steps in turn, each of another random token, so of other experts.
"""
    OUT.write_text(made, encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
