"""What every artifact is run on: cases of a static cache, each a batch of rows and the tokens of each step."""

from dataclasses import dataclass

from pipeline.core.profiles import Profiles


@dataclass(frozen=True)
class Case:
    """past: used slots of each row at the start, filled with the original model's keys and values.
    steps: per step, the number of new tokens of each row; rows are padded on the right to the longest.
    rows: the least batch at which the case shows what it is for."""

    name: str
    past: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    rows: int = 1

    @property
    def batch(self) -> int:
        return len(self.past)

    def sizes(self) -> set[tuple[int, int]]:
        """The (batch, sequence) of each step."""
        return {(self.batch, max(step)) for step in self.steps}

    def written(self, row: int) -> int:
        """One past the last slot that the row's steps write, their padding included."""
        end, used = 0, self.past[row]
        for step in self.steps:
            end, used = max(end, used + max(step)), used + step[row]
        return end

    def left_out(self, profiles: Profiles, cache_size: int) -> str:
        """Why it cannot be run with these profiles and this cache; empty when it can."""
        end = max(map(self.written, range(self.batch)))
        if min(self.past) < 0 or end > cache_size:
            return f"needs a cache of {end - min(0, *self.past)} slots, cache.size is {cache_size}"
        for batch, sequence in sorted(self.sizes()):
            if not profiles.admits(batch=batch, sequence=sequence):
                return f"no profile takes batch {batch} x sequence {sequence}"
        if self.rows > self.batch:
            return f"needs {self.rows} rows, the profiles take {self.batch}"
        return ""


def catalog(profiles: Profiles, cache_size: int, limits: tuple[int, ...] = ()) -> list[Case]:
    """All cases that these profiles and this cache allow; limits: GraphContract.limits."""
    return [case for case in _all(profiles, cache_size, limits) if not case.left_out(profiles, cache_size)]


def not_run(profiles: Profiles, cache_size: int, limits: tuple[int, ...] = ()) -> dict[str, str]:
    """The other cases by name, and why each is left out."""
    reasons = {case.name: case.left_out(profiles, cache_size) for case in _all(profiles, cache_size, limits)}
    return {name: reason for name, reason in reasons.items() if reason}


def _all(profiles: Profiles, cache_size: int, limits: tuple[int, ...]) -> list[Case]:
    """All cases, cut to the largest batch and sequence of these profiles."""
    longest, widest = min(profiles.max("sequence"), cache_size), profiles.max("batch")

    def ragged(most: int, *steps: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(min(n, most) for n in step[:widest]) for step in steps)

    (zeros, mixed), ones = ragged(cache_size, (0, 0, 0), (3, 0, 17)), (1,) * min(3, widest)
    prompts = ragged(longest, (10, 20, 30))[0]
    return [
        Case("one token", (0,), ((1,),)),
        Case("prefill", (0,), ((min(10, longest),),)),
        Case("longest prefill", (0,), ((longest,),)),
        Case("chunked prefill", (0,), ((min(7, longest),), (min(5, longest),), (min(2, longest),))),
        Case("decode", (0,), ((min(6, longest),), (1,), (1,), (1,))),
        Case("non-zero start", (11,), ((min(4, longest),), (1,))),
        Case("last slot", (cache_size - 2,), ((1,), (1,))),
        Case("last slots in one chunk", (cache_size - min(3, longest),), ((min(3, longest),),)),
        Case("ragged prefill", zeros, (prompts,), rows=2),
        Case("ragged decode", zeros, (prompts, ones, ones, ones), rows=2),
        Case("ragged chunks", mixed, ragged(longest, (4, 7, 2), (1, 5, 6)), rows=2),
        Case("an idle row", (4, 9)[:widest], ragged(longest, (2, 0), (1, 0)), rows=2),
        Case("largest batch", (0,) * widest, ragged(longest, (2, 1) * widest, (1,) * widest)),
        *(_around(limit, widest, longest, cache_size) for limit in limits if limit < cache_size),
    ]


def _around(limit: int, widest: int, longest: int, cache_size: int) -> Case:
    """Rows on both sides of a limit of position in one batch: row 0 crosses it, within its first step where the
    profiles allow one of four tokens; row 1 stays far below; row 2 is beyond, where the cache has room for that."""
    steps = tuple(tuple(min(n, longest) for n in step[:widest]) for step in ((4, 1, 2), (1, 1, 1), (1, 1, 1)))
    last = cache_size - sum(map(max, steps))
    past = (max(0, min(limit - 2, last)), 0, min(limit + 3, last))[:widest]
    return Case(f"both sides of position {limit}", past, steps, rows=2)
