"""What is measured, and in which order: cases, and an order in which no system has a quiet hour to itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

USUAL_CACHE = 1024


@dataclass(frozen=True)
class Case:
    """One generation: `prompt` tokens in each of `batch` rows, then `new` tokens, in a cache of `cache` slots.
    `rounds`: how often it is run in each system at most."""

    batch: int
    prompt: int
    new: int
    cache: int = USUAL_CACHE
    rounds: int = 99

    def __str__(self) -> str:
        return f"batch {self.batch}, prompt {self.prompt}, cache {self.cache}"


QUICK = [Case(1, prompt, 64) for prompt in (16, 128, 512)]
# Prompts of a batch take seconds: two rounds of few tokens, or this would be an hour.
BATCHES = [Case(batch, prompt, 16, rounds=2) for batch in (4, 8) for prompt in (16, 128, 512)]
# The same position in caches of different sizes, then much more of the largest one in use.
CACHES = [Case(1, 100, 32, cache) for cache in (512, 1024, 8192)] + [Case(1, 2000, 32, 8192)]
# Whether everything runs, not how fast.
SMOKE = [Case(1, 16, 8), Case(4, 16, 8)]
SETS = {"smoke": SMOKE, "quick": QUICK, "full": QUICK + BATCHES + CACHES, "caches": CACHES}


def warmup(case: Case) -> Case:
    """A short run of the same batch and cache: what is compiled, allocated or packed at first use is not measured.
    What is left of that after 128 tokens is nothing beside a longer prompt."""
    return replace(case, prompt=min(case.prompt, 128), new=4)


def interleaved(systems: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, system) for one case: all systems in turn, each round beginning one system further on.

    A machine that is slowed for a minute then slows a round of every system, and the medians drop it; and no
    system always runs right after the same other one.
    """
    for number in range(rounds):
        first = number % len(systems) if systems else 0
        for system in [*systems[first:], *systems[:first]]:
            yield number, system
