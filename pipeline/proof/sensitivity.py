"""How far rounding alone takes the original's answer to a row.

Models and rows differ. With keys of several hundred, an error of the last bit in a score moves the logits by a
thousandth. A token whose layers nearly cancel can end up in another state. A gate that fits one row then fails a
correct engine on another. So when an artifact misses a gate, the original runs the row again several times, and the
output of each module without submodules is changed at random by as much as the compute type rounds. How far that takes
its answer is the row's sensitivity.

One token of SmolLM2-135M in fp16: the program's caches are 0.87 off, transformers' own fp16 model is 8.8 standard
deviations off in the logits, and eight such runs of the original by up to 1.6, their caches by 0.29. Other tokens: 0.02
to 0.1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.core.arrays import Floats
from pipeline.core.errors import Problem, UserError
from pipeline.proof.metrics import CACHES, COMPARISONS, LOGITS, Found
from pipeline.proof.reference import Expected, Reference

RUNS = 8  # the worst of so many: single ones differ tenfold where a row is sensitive
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # largest relative error of one number
TOKENS = 64

Sensitivity = dict[str, float]  # metric -> its distance from perfect that rounding alone causes


def measure(
    reference: Reference,
    cached: list[Floats],
    tokens: list[int],
    positions: list[int],
    before: list[int],
    expected: Expected,
    dtype: str,
) -> Sensitivity:
    """The worst distance of each metric between `expected` and the original's answers when rounded to `dtype`."""
    found: dict[str, list[Found]] = {metric.name: [] for metric in COMPARISONS}
    for seed in range(RUNS):
        with _rounded(reference, ROUNDING[dtype], seed):
            rounded = reference.answer(cached, tokens, positions, before)
        logits = list(zip(rounded.logits[:, None], expected.logits[:, None], strict=True))
        ours, theirs = ([*answer.caches, *answer.states] for answer in (rounded, expected))
        caches = list(zip(ours, theirs, strict=True))
        for metrics, pairs in ((LOGITS, logits), (CACHES, caches)):
            for metric in metrics:
                found[metric.name] += [(metric.measure(got, want), "") for got, want in pairs]
    return {metric.name: metric.distance(metric.worst(found[metric.name])[0]) for metric in COMPARISONS}


@contextmanager
def _rounded(reference: Reference, rounding: float, seed: int) -> Iterator[None]:
    """Inside this context each module without submodules returns numbers that are off by up to `rounding` of
    themselves."""
    generator = torch.Generator().manual_seed(seed)

    def add_noise(_: torch.nn.Module, __: object, output: object) -> object:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        return output * (1 + rounding * (2 * torch.rand(output.shape, generator=generator) - 1))

    leaves = [module for module in reference.model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(add_noise) for module in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_finite(reference: Reference, vocab: int, seed: int) -> None:
    """Raise UserError when the original's own answers are not finite: nothing can be compared with those."""
    tokens = np.random.default_rng([seed, TOKENS]).integers(0, vocab, TOKENS).tolist()
    expected = reference.answer([], tokens, list(range(TOKENS)))
    if not all(np.isfinite(values).all() for values in (expected.logits, *expected.caches, *expected.states)):
        what = "the original model's own answers, in fp32, are not finite"
        raise UserError(Problem(what, "model", "check the checkpoint: a weight may be NaN or infinite"))
