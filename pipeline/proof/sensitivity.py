"""How much the original's own answer to a row changes when its numbers are rounded.

Models and rows differ. With keys of several hundred, an error of the last bit in a score moves the logits by a
thousandth. A token whose layers nearly cancel can turn into another state. A gate that fits one row then fails a
correct engine on another. So when an artifact misses a gate, the original runs the row again, with the output of every
module that has no submodules off by what the compute type rounds away, at random. How far that takes its answer is the
measure.

One token of SmolLM2-135M in fp16: the program's caches are 0.87 off, transformers' own fp16 model is 8.8 standard
deviations off in the logits, and eight such runs of the original by up to 1.6, their caches by 0.29. Other tokens: 0.02
to 0.1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.core.dtypes import Floats
from pipeline.core.errors import Problem, UserError
from pipeline.proof.distance import Worst, cache_error, kl, logits_error
from pipeline.proof.reference import Answer, Reference

# Never more than this, however sensitive a row is: half of how far off the answer to an unrelated text is.
MOST = {"logits_error": 3.0, "kl": 1.0, "cache_error": 1.5}
RUNS = 8  # the worst of so many: single ones differ tenfold where a row is sensitive
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest relative error of one number
TOKENS = 64

Sensitivity = dict[str, float]  # figure of pipeline.proof.compare -> how far rounding takes it


def measure(
    reference: Reference, past: list[Floats], tokens: list[int], positions: list[int], answer: Answer, dtype: str
) -> Sensitivity:
    """How far rounding to `dtype` takes the original's `answer` to a row: the worst of each figure."""
    worst = {name: Worst() for name in ("logits_error", "kl", "cache_error")}
    for seed in range(RUNS):
        with _rounded(reference, ROUNDING[dtype], seed):
            found = reference.answer(past, tokens, positions)
        for got, want in zip(found.logits[:, None], answer.logits[:, None], strict=True):
            worst["logits_error"].add(logits_error(got, want), "")
            worst["kl"].add(kl(got, want), "")
        for got, want in zip(found.caches, answer.caches, strict=True):
            worst["cache_error"].add(cache_error(got, want), "")
    return {name: most.value for name, most in worst.items()}


@contextmanager
def _rounded(reference: Reference, rounding: float, seed: int) -> Iterator[None]:
    """Within, every module without submodules gives numbers that are off by up to `rounding` of themselves."""
    generator = torch.Generator().manual_seed(seed)

    def off(_: torch.nn.Module, __: object, output: object) -> object:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        return output * (1 + rounding * (2 * torch.rand(output.shape, generator=generator) - 1))

    parts = [module for module in reference.model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(off) for module in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_finite(reference: Reference, vocab: int, seed: int) -> None:
    """Raise UserError when the original's own answers are not finite: nothing can be held against those."""
    tokens = np.random.default_rng([seed, TOKENS]).integers(0, vocab, TOKENS).tolist()
    answer = reference.answer([], tokens, list(range(TOKENS)))
    if not all(np.isfinite(values).all() for values in (answer.logits, *answer.caches)):
        what = "the original model's own answers, in fp32, are not finite"
        raise UserError(Problem(what, "model", "check the checkpoint: a weight may be NaN or infinite"))
