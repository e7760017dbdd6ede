"""Search the points of a sweep for the smallest or the fastest engine that is good enough.

Every point is built up to its engine, whose size is known then. Verification and benchmarks, which take longest, are
for those only that can still win. What is found is exact: no point that was left out could have won.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.config import points
from pipeline.core import layout
from pipeline.core.schema import Find, Goal
from pipeline.sweeps.build import Result, collect
from pipeline.sweeps.dvc import Progress
from pipeline.sweeps.job import JobResult
from pipeline.sweeps.summary import report
from pipeline.sweeps.upkeep import megabytes, size

GB = 2**30


@dataclass
class Found:
    """What a search found. best: the point, or None. why: what decided, one line for each point; failed as in
    `Result`."""

    best: str | None = None
    why: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def search(names: Sequence[str], goal: Goal, jobs: Mapping[str, JobResult], progress: Progress) -> Found:
    """Build what is needed to name the best point. jobs: what has been built side by side before."""
    found = Found()
    engines = collect(names, jobs, progress, ("engine",))
    found.failed |= engines.failed
    built = [name for name in names if name not in engines.failed]
    sizes = {name: size(points.ARTIFACTS / name / layout.ENGINE) for name in built}
    fitting = []
    for name in sorted(built, key=lambda name: sizes[name]):
        if goal.memory_gb is not None and sizes[name] > goal.memory_gb * GB:
            found.why[name] = f"its engine alone has {megabytes(sizes[name])}, goal.memory_gb is {goal.memory_gb}"
        else:
            fitting.append(name)
    if goal.find is Find.smallest:
        _smallest(fitting, sizes, goal, progress, found)
    else:
        _fastest(fitting, goal, progress, found)
    return found


def lines(found: Found, goal: Goal) -> Iterator[str]:
    """Return what decided for each point, and the one that was found."""
    for name, why in found.why.items():
        yield f"{name}: {why}"
    limits = f"perplexity at most {goal.perplexity:+.2%}"
    if goal.memory_gb is not None:
        limits += f", memory at most {goal.memory_gb} GB"
    assert goal.find
    yield f"{goal.find.value} with {limits}: {found.best or 'none of these points'}"


def _smallest(fitting: Sequence[str], sizes: Mapping[str, int], goal: Goal, progress: Progress, found: Found) -> None:
    for name in fitting:
        if found.best:
            found.why[name] = f"not verified: {megabytes(sizes[name])}, larger than {found.best}"
        elif _good(name, goal, progress, found) and _measured(name, goal, progress, found):
            found.best = name
            found.why[name] += f": the smallest, {megabytes(sizes[name])}"


def _fastest(fitting: Sequence[str], goal: Goal, progress: Progress, found: Found) -> None:
    speeds = {}
    for name in fitting:
        if _good(name, goal, progress, found) and _measured(name, goal, progress, found):
            speeds[name] = float(report(name, layout.BENCH)["decode_tok_s"])
    if speeds:
        found.best = max(speeds, key=lambda name: speeds[name])
        for name, speed in speeds.items():
            found.why[name] += f": {'the fastest, ' if name == found.best else ''}{speed:.1f} tok/s"


def _good(name: str, goal: Goal, progress: Progress, found: Found) -> bool:
    """Verify a point, and tell whether its perplexity is within the limit."""
    if not _built(collect([name], {}, progress, ("verify",)), name, found):
        return False
    engine = report(name, layout.ACCURACY).get(layout.ENGINE, {})
    if "perplexity_increase" not in engine:
        found.why[name] = "its perplexity was not measured: the engine was not run here, or verify.quality.tokens is 0"
        return False
    increase = float(engine["perplexity_increase"])
    found.why[name] = f"perplexity {increase:+.2%}"
    if increase > goal.perplexity:
        found.why[name] += f", goal.perplexity is {goal.perplexity:.2%}"
    return increase <= goal.perplexity


def _measured(name: str, goal: Goal, progress: Progress, found: Found) -> bool:
    """Measure a point's speed and memory, and tell whether the memory is within the limit."""
    if not _built(collect([name], {}, progress, ("bench",)), name, found):
        return False
    peak = float(report(name, layout.BENCH).get("peak_mb", 0.0)) * 2**20
    if goal.memory_gb is not None and peak > goal.memory_gb * GB:
        found.why[name] += f", takes {megabytes(int(peak))}, goal.memory_gb is {goal.memory_gb}"
        return False
    return True


def _built(result: Result, name: str, found: Found) -> bool:
    found.failed |= result.failed
    if name in result.failed:
        found.why[name] = f"failed in {result.failed[name]}"
    return name not in result.failed
