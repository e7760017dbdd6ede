"""How much the original's own answers change when its input embeddings are rounded.

Some models make little of rounding, others much: with keys of several hundred, an error of the last bit in a score
moves the logits by a thousandth. A gate that fits the one fails the other. So the original is run twice over the same
tokens, once with its embeddings off by what the compute type rounds away, and what that changes is the measure: over
seven architectures and three sizes of a key's bias, in fp32 and fp16, a correct program of the model was off by 0.2 to
15 times as much, where the figures themselves lie six decimal powers apart.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.distance import Worst, cache_error, kl, logits_error
from pipeline.errors import Problem, UserError
from pipeline.reference import Answer, Reference

TOKENS = 64
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest relative error of one number


@dataclass(frozen=True)
class Sensitivity:
    """What rounding the embeddings does to each figure of pipeline.compare; 0.0: not measured."""

    logits_error: float = 0.0
    kl: float = 0.0
    cache_error: float = 0.0


def measure(reference: Reference, dtype: str, vocab: int, seed: int) -> Sensitivity:
    """Run the original over random tokens, with and without its embeddings rounded to `dtype`: the worst figures.

    Raises UserError when the original's own answers are not finite: nothing can be held against those.
    """
    rng = np.random.default_rng([seed, TOKENS])
    tokens, positions = rng.integers(0, vocab, TOKENS).tolist(), list(range(TOKENS))
    plain = reference.answer([], tokens, positions)
    if not all(np.isfinite(values).all() for values in (plain.logits, *plain.caches)):
        what = "the original model's own answers, in fp32, are not finite"
        fix = "check the checkpoint: a weight may be NaN or infinite"
        raise UserError(Problem(what, "model", fix))
    rounded = _rounded(reference, tokens, positions, ROUNDING[dtype], seed)
    worst = {name: Worst() for name in ("logits_error", "kl", "cache_error")}
    for got, want in zip(rounded.logits[:, None], plain.logits[:, None], strict=True):
        worst["logits_error"].add(logits_error(got, want), "")
        worst["kl"].add(kl(got, want), "")
    for got, want in zip(rounded.caches, plain.caches, strict=True):
        worst["cache_error"].add(cache_error(got, want), "")
    found = {name: most.value for name, most in worst.items()}
    return Sensitivity(**{name: value if math.isfinite(value) else 0.0 for name, value in found.items()})


def _rounded(reference: Reference, tokens: list[int], positions: list[int], rounding: float, seed: int) -> Answer:
    """The original's answer with every number of its embeddings off by up to `rounding` of itself, at random."""
    generator = torch.Generator().manual_seed(seed)

    def off(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return output * (1 + rounding * (2 * torch.rand(output.shape, generator=generator) - 1))

    hook = reference.model.get_input_embeddings().register_forward_hook(off)
    try:
        return reference.answer([], tokens, positions)
    finally:
        hook.remove()
