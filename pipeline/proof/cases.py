"""The cases that every artifact runs: each is a batch of rows with a filled cache, and the tokens of each step."""

from dataclasses import dataclass

from pipeline.core.profiles import Profiles


@dataclass(frozen=True)
class Case:
    """cached: tokens in each row's cache at the start, with the original model's keys and values.
    steps: per step, the number of new tokens of each row; rows are padded on the right to the longest.
    rows: the smallest batch in which the case tests what it is meant for."""

    name: str
    cached: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    rows: int = 1

    @property
    def batch(self) -> int:
        return len(self.cached)

    def sizes(self) -> set[tuple[int, int]]:
        """The (batch, sequence) of each step."""
        return {(self.batch, max(step)) for step in self.steps}

    def written(self, row: int) -> int:
        """One after the last slot that the row's steps write, padding included."""
        end, used = 0, self.cached[row]
        for step in self.steps:
            end, used = max(end, used + max(step)), used + step[row]
        return end

    def why_left_out(self, profiles: Profiles, cache_size: int) -> str:
        """Why it cannot run with these profiles and this cache; empty when it can."""
        end = max(map(self.written, range(self.batch)))
        if min(self.cached) < 0 or end > cache_size:
            return f"needs a cache of {end - min(0, *self.cached)} slots, cache.size is {cache_size}"
        for batch, sequence in sorted(self.sizes()):
            if not profiles.admits(batch=batch, sequence=sequence):
                return f"no profile takes batch {batch} x sequence {sequence}"
        if self.rows > self.batch:
            return f"needs {self.rows} rows, the profiles take {self.batch}"
        return ""


def catalog(profiles: Profiles, cache_size: int, limits: tuple[int, ...] = ()) -> list[Case]:
    """The cases that these profiles and this cache allow; limits: GraphContract.limits."""
    return [case for case in _all(profiles, cache_size, limits) if not case.why_left_out(profiles, cache_size)]


def not_run(profiles: Profiles, cache_size: int, limits: tuple[int, ...] = ()) -> dict[str, str]:
    """The other cases by name, with the reason why each is left out."""
    reasons = {case.name: case.why_left_out(profiles, cache_size) for case in _all(profiles, cache_size, limits)}
    return {name: reason for name, reason in reasons.items() if reason}


def _all(profiles: Profiles, cache_size: int, limits: tuple[int, ...]) -> list[Case]:
    """All cases, cut to the largest batch and sequence of these profiles."""
    longest, widest = min(profiles.max("sequence"), cache_size), profiles.max("batch")

    def cut(step: tuple[int, ...], most: int = longest) -> tuple[int, ...]:
        return tuple(min(n, most) for n in step[:widest])

    empty, mixed = cut((0, 0, 0)), cut((3, 0, 17), cache_size)
    prompts, ones = cut((10, 20, 30)), cut((1, 1, 1))
    return [
        Case("one token", (0,), ((1,),)),
        Case("prefill", (0,), ((min(10, longest),),)),
        Case("longest prefill", (0,), ((longest,),)),
        Case("chunked prefill", (0,), ((min(7, longest),), (min(5, longest),), (min(2, longest),))),
        Case("decode", (0,), ((min(6, longest),), (1,), (1,), (1,))),
        Case("non-zero start", (11,), ((min(4, longest),), (1,))),
        Case("last slot", (cache_size - 2,), ((1,), (1,))),
        Case("last slots in one chunk", (cache_size - min(3, longest),), ((min(3, longest),),)),
        Case("ragged prefill", empty, (prompts,), rows=2),
        Case("ragged decode", empty, (prompts, ones, ones, ones), rows=2),
        Case("ragged chunks", mixed, (cut((4, 7, 2)), cut((1, 5, 6))), rows=2),
        Case("an idle row", (4, 9)[:widest], (cut((2, 0)), cut((1, 0))), rows=2),
        Case("largest batch", (0,) * widest, (cut((2, 1) * widest), (1,) * widest)),
        *(_around(limit, widest, longest, cache_size) for limit in limits if limit < cache_size),
    ]


def _around(limit: int, widest: int, longest: int, cache_size: int) -> Case:
    """Rows on both sides of a position limit in one batch. Row 0 crosses it, within its first step where the profiles
    allow four tokens; row 1 stays far below; row 2 starts above it where the cache has room."""
    steps = tuple(tuple(min(n, longest) for n in step[:widest]) for step in ((4, 1, 2), (1, 1, 1), (1, 1, 1)))
    last = cache_size - sum(map(max, steps))
    cached = (max(0, min(limit - 2, last)), 0, min(limit + 3, last))[:widest]
    return Case(f"both sides of position {limit}", cached, steps, rows=2)
