"""How good an engine's text is: its perplexity over a real text, beside the original's in fp32.

The gates of pipeline.proof.cases must be wide where weights are rounded to few bits; quality measures what the rounding
costs. The engine runs as it generates: the text is cut into windows, each window starts from an empty cache, and its
tokens are fed one per step (teacher forcing), as many windows at once as the engine runs rows, up to 16. The original
runs beside it in a thread of its own, a chunk of positions ahead, so memory does not grow with the text and grows
little with the vocabulary. Each has half of the cores: products of few rows on all of them mostly wait for each other
(SmolLM2-135M on 2 cores: 84 processor seconds instead of 127).
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import CacheGates, Quality
from pipeline.proof.reference import Reference
from pipeline.proof.results import QUALITY, Limit, Result, limits, with_cache
from pipeline.runtime.session import Runtime
from pipeline.text import texts
from pipeline.text.tokens import cut, load_tokenizer, split

ROWS = 16  # one step of 16 rows takes 0.75 of the time of two steps of 8
CHUNK = 2**24  # logits of each model that are held at once, 64 MiB: 32 positions of 8 rows at 49,152 tokens


@dataclass
class Sums:
    """Sums over all predicted tokens, in fp64 nats; `seen`: how many."""

    original: float = 0.0
    engine: float = 0.0
    kl: float = 0.0
    same: int = 0
    seen: int = 0

    def add(self, want: torch.Tensor, got: torch.Tensor, targets: torch.Tensor) -> None:
        """want, got: fp32 logits [n, vocab] of the original and the engine; targets: int64 [n], the text's tokens."""
        p, q = (logits.double().log_softmax(-1) for logits in (want, got))
        self.original -= float(p.gather(1, targets[:, None]).sum())
        self.engine -= float(q.gather(1, targets[:, None]).sum())
        self.kl += float((p.exp() * (p - q)).sum())
        self.same += int((want.argmax(-1) == got.argmax(-1)).sum())
        self.seen += len(targets)


def measure(
    engine: Runtime,
    reference: Reference,
    windows: list[list[int]],
    quality: Quality,
    carried_over: bool = False,
    cache_gates: CacheGates | None = None,
) -> Result:
    """Perplexity (exp of the mean negative log-likelihood) of both models over tokens 2 to the last of each window,
    its relative increase, the mean KL(original || engine) in nats, and how often both rank the same token first.

    carried_over: whether all weights of 4 bits are the checkpoint's own; perplexity may have a gate of its own then.
    cache_gates: what a quantized cache may cost.
    """
    engine = engine.widened(min(ROWS, len(windows)))
    sums, rows = Sums(), engine.profiles.admitting(sequence=1).max("batch")
    with tqdm(total=sum(len(window) - 1 for window in windows), desc="quality", unit="token", leave=False) as bar:
        for first in range(0, len(windows), rows):
            for _ in _side_by_side(engine, reference, windows[first : first + rows], sums):
                bar.update(sums.seen - bar.n)
    original, own = (
        float(torch.tensor(total / sums.seen, dtype=torch.float64).exp()) for total in (sums.original, sums.engine)
    )
    held = limits(quality, QUALITY)
    if carried_over and quality.perplexity_carried_over is not None:
        key = f"{QUALITY}.perplexity_carried_over"
        held["perplexity_increase"] = Limit(quality.perplexity_carried_over, key)
    if cache_gates is not None:
        held = with_cache(held, engine.contract, cache_gates)
    result = Result()
    result.record("perplexity", own)
    result.record("perplexity_original", original)
    result.record("predicted_tokens", sums.seen)
    increase, mean_kl, top1 = own / original - 1, sums.kl / sums.seen, sums.same / sums.seen
    for name, value in (("perplexity_increase", increase), ("mean_kl", mean_kl), ("top1", top1)):
        result.gate(name, [(value, f"{sums.seen} predicted tokens")], held[name])
    return result


def _side_by_side(engine: Runtime, reference: Reference, windows: list[list[int]], sums: Sums) -> Iterator[None]:
    """Feed windows, a row each, to both models and add up; yield after each chunk of positions."""
    session, original = engine.session(len(windows)), reference.streaming()
    vocab = int(engine.contract.logits.shape[2])
    longest = max(map(len, windows))
    padded = torch.tensor([window + [0] * (longest - len(window)) for window in windows])
    chunk = max(1, min(32, CHUNK // (len(windows) * vocab)))
    ends = [*range(chunk, longest - 1, chunk), longest - 1]
    with (
        _half_of_the_threads() as half,
        ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(half,)) as beside,
    ):
        coming = beside.submit(original.logits, padded[:, : ends[0]])
        for start, end, next_end in zip([0, *ends], ends, [*ends[1:], 0], strict=False):
            wanted, added = coming, []
            if next_end:
                coming = beside.submit(original.logits, padded[:, end:next_end])
            for position in range(start, end):
                # a row whose window has ended is idle
                last = [position + 1 < len(window) for window in windows]
                tokens = [[window[position]] if more else [] for window, more in zip(windows, last, strict=True)]
                logits = torch.from_numpy(session.step(tokens)[:, -1])
                rows = torch.tensor(last)
                want = wanted.result()[rows, position - start]
                added.append(beside.submit(sums.add, want, logits[rows], padded[rows, position + 1]))
            for done in added:
                done.result()
            yield


@contextmanager
def _half_of_the_threads() -> Iterator[int]:
    """Inside this context PyTorch uses half of its threads, at least one; yields their number."""
    before = torch.get_num_threads()
    half = max(1, before // 2)
    torch.set_num_threads(half)
    try:
        yield half
    finally:
        torch.set_num_threads(before)


def carried_over(point: Path) -> bool:
    """Whether a point has weights that are the checkpoint's own, and all those of 4 bits are."""
    entries = json.loads((point / layout.QUANTIZED / layout.QUANTIZATION).read_text(encoding="utf-8"))["tensors"]
    own = [entry for entry in entries if entry["carried_over"] == entry["rows"]]
    return bool(own) and all(entry in own for entry in entries if entry["bits"] == 4)


def windows(point: Path, quality: Quality, vocab: int, seed: int) -> list[list[int]]:
    """The first `tokens` tokens of the text in windows of `window`, the last one shorter; each begins with the
    tokenizer's start token if it has one. Random tokens for a model without a tokenizer. Raises UserError for a text
    of fewer than 2 tokens."""
    tokenizer = load_tokenizer(point / layout.WRAPPED)
    start: list[int] = []
    if tokenizer is None:
        tokens = np.random.default_rng(seed).integers(0, vocab, quality.tokens).tolist()
    else:
        text = texts.read(quality.text, texts.QUALITY, point)[: texts.CHARS_PER_TOKEN * quality.tokens]
        start, tokens = split(tokenizer, text)
    tokens = tokens[: quality.tokens]
    found = [window for window in cut(start, tokens, quality.window) if len(window) > 1]
    if not found:
        raise UserError(
            Problem(f"the text has {len(tokens)} tokens", texts.QUALITY.key, "give a text of 2 tokens or more")
        )
    return found
