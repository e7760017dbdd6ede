"""ONNX Runtime's engines for CUDA beside PyTorch on the same GPU, interleaved in one process.

    python -m benchmarks.gpu POINT [POINT ...]

Each point is built with engine=onnxruntime_cuda. PyTorch computes in the same precision: with a growing cache as eager
code, with a static one, and compiled with its steps as CUDA graphs. Prints a table of medians, row by row.
"""

import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import machine, report, worker
from benchmarks.cases import Case, interleaved, warmup
from benchmarks.peers import Peer, kvforge, pytorch
from benchmarks.systems import engine
from pipeline.checkpoint import loading
from pipeline.core import hardware, layout
from pipeline.core.schema import Model, section
from pipeline.text.tokens import load_tokenizer

SCRATCH, ARTIFACTS = Path(".bench/gpu"), Path("artifacts")
CASES = [Case(1, 16, 64), Case(1, 512, 64), Case(8, 128, 32)]
ROUNDS = 3
TORCH = {
    "pytorch": {"cache": "growing"},
    "pytorch static": {"cache": "static"},
    "pytorch compiled": {"cache": "static", "compiled": "yes", "mode": "reduce-overhead"},
}
REFERENCE = "pytorch fp32"
TYPES = {"fp32": "float32", "fp16": "float16"}


def tokens_of(point: Path, vocab: int) -> list[int]:
    """A text's tokens; random ones for a model without a tokenizer."""
    tokenizer = load_tokenizer(point / layout.WRAPPED)
    if tokenizer is None:
        return np.random.default_rng(0).integers(0, vocab, 4096).tolist()
    return tokenizer((point / layout.TEXT).read_text()[:40_000], add_special_tokens=False)["input_ids"]


def measure(name: str, bandwidth: float) -> None:
    """All systems and cases of one point."""
    point = ARTIFACTS / name
    ours = engine(point / layout.ENGINE)
    folder = SCRATCH / name
    original = loading.load(section(Model, point), point / layout.CHECKPOINT)
    original.save_pretrained(folder)
    tokens = tokens_of(point, original.config.vocab_size)
    del original
    original_peer: Peer = pytorch.System(folder, {"cache": "growing", "device": "cuda"}, 1)
    expected = {case: worker.run_case(original_peer, tokens, vars(case))["tokens"] for case in CASES}
    del original_peer
    gc.collect()
    peers: dict[str, Peer] = {"kvforge": kvforge.System(point / layout.ENGINE, {}, 1)}
    for system, options in TORCH.items():
        peers[system] = pytorch.System(folder, {**options, "device": "cuda", "dtype": TYPES[ours.precision]}, 1)
    shutil.rmtree(folder)
    for case in CASES:
        answers: dict[str, list[dict[str, Any]]] = {system: [] for system in peers}
        for peer in peers.values():
            worker.run_case(peer, tokens, vars(warmup(case)))
        for _, system in interleaved(list(peers), ROUNDS):
            answers[system].append(worker.run_case(peers[system], tokens, vars(case)))
        for system, peer in peers.items():
            row = {"point": name, "system": system, "precision": ours.precision, "batch": case.batch}
            row |= {"prompt": case.prompt, "cache": case.cache, **report.speeds(answers[system], case.batch)}
            row["share_of_bandwidth"] = report.share(peer.weight_bytes(), row, bandwidth)
            chosen = answers[system][0]["tokens"]
            row["same_tokens"] = f"{report.common_start(chosen, expected[case])} of {len(chosen)}"
            print(line(row), flush=True)


def line(row: report.Row) -> str:
    """A row of the table."""
    case = Case(row["batch"], row["prompt"], 0, row["cache"])
    figures = (f"{row['decode_tok_s']:.0f}", f"{row['prefill_s'] * 1e3:.1f}", f"{row['share_of_bandwidth']:.0%}")
    return f"| {' | '.join((row['point'], str(case), row['system'], *figures, row['same_tokens']))} |"


def main() -> None:
    """Run the benchmark."""
    bandwidth = machine.gpu_bandwidth()
    print(f"{hardware.gpus()[0][0]}, memory read at {bandwidth / 1e9:.0f} GB/s\n")
    print(f"| point | case | system | decode tokens/s | prefill ms | share | tokens as {REFERENCE} |")
    print("|---|---|---|--:|--:|--:|--:|", flush=True)
    torch.set_grad_enabled(False)
    for name in sys.argv[1:]:
        measure(name, bandwidth)


if __name__ == "__main__":
    main()
