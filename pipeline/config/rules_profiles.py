"""What is wrong with the ranges of the profiles; pipeline.config.rules has the other rules."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pipeline.config.keys import Rule
from pipeline.core.errors import Problem
from pipeline.core.profiles import AXES, Sizes, StepSizes
from pipeline.core.schema import Axes, Profile, Range, Shapes
from pipeline.core.tables.engines import KINDS, EngineKind


def _more(more: Mapping[str, Any], axes: Axes) -> Iterator[Problem]:
    """The profiles that were added by name."""
    for name, raw in more.items():
        where = f"profile.more.{name}"
        try:
            ranges = StepSizes.from_dict(raw)
        except (ValueError, TypeError):
            fix = f"give +{where}={{batch: {{min: 1, opt: 1, max: 4}}, sequence: {{min: 1, opt: 64, max: 64}}}}"
            yield Problem(f"{where} has not batch and sequence, each with min, opt and max", where, fix)
            continue
        if name in ("prefill", "decode"):
            yield Problem(f"there is a profile {name} already", where, f"set profile.{name}, or choose another name")
        for axis in AXES:
            ends: Sizes = getattr(ranges, axis)
            if min(ends.min, ends.opt, ends.max) < 1:
                yield Problem(f"{where}.{axis} goes below 1", f"{where}.{axis}", "give 1 or more")
            yield from _range(f"{where}.{axis}", ends, getattr(axes, axis))


def _range(where: str, ends: Range | Sizes, largest: int) -> Iterator[Problem]:
    """In order, and inside the declared axis."""
    axis = where.rpartition(".")[2]
    if not ends.min <= ends.opt <= ends.max:
        order = f"min {ends.min}, opt {ends.opt}, max {ends.max}"
        yield Problem(f"{where} is out of order: {order}", where, "make it min <= opt <= max")
    if ends.max > largest:
        yield Problem(
            f"{where}.max={ends.max} is above axes.{axis}={largest}",
            f"{where}.max",
            f"{where}.max={largest} at most, axes.{axis}={ends.max}, or the option of profile/ that fits the axes",
        )


def _one_token(where: str, least: int) -> Iterator[Problem]:
    """Generating for one row is in no profile but decode: it must be there."""
    if least > 1:
        yield Problem(f"{where}={least} leaves out the step of one row and one token", where, f"{where}=1")


def _gap(profile: Profile) -> Iterator[Problem]:
    """Every batch from 1 on and, for each batch, every sequence from 1 on is in some profile, up to the largest."""
    named = _by_key(profile)
    if any(not 1 <= getattr(r, axis).min <= getattr(r, axis).max for r in named.values() for axis in AXES):
        return  # already reported
    missing = _hole([(ranges.batch, f"{key}.batch") for key, ranges in named.items()])
    if missing:
        yield _between("batch", *missing)
        return
    for batch in sorted({end for r in named.values() for end in (r.batch.min, r.batch.max)}):
        fitting = {key: r for key, r in named.items() if r.batch.min <= batch <= r.batch.max}
        missing = _hole([(ranges.sequence, f"{key}.sequence") for key, ranges in fitting.items()])
        if missing:
            yield _between(f"sequence (at batch {batch})", *missing)
            return


def _hole(ranges: list[tuple[Range | Sizes, str]]) -> tuple[int, int, str] | None:
    """The first sizes, from and to, that lie below a range and in none, and that range's key."""
    reached = 0
    for ends, key in sorted(ranges, key=lambda item: item[0].min):
        if ends.min > reached + 1:
            return reached + 1, ends.min - 1, key
        reached = max(reached, ends.max)
    return None


def _between(axis: str, first: int, last: int, key: str) -> Problem:
    sizes = f"{first}" if first == last else f"{first} to {last}"
    return Problem(f"no profile takes {axis} {sizes}", f"{key}.min", f"{key}.min={first}, or a profile for those sizes")


def _static(kind: EngineKind, profile: Profile, axes: Axes) -> Iterator[Problem]:
    """A profile of one shape beside another: TensorRT stores all weights once more for it. The plan of SmolLM2-135M in
    fp16 has 500 MB then; 288 with a batch of 1 to 2, 290 with a sequence of 1 to 2."""
    if not KINDS[kind].static_costs:
        return
    for key, ranges in _by_key(profile).items():
        if all(ends.min == ends.max for ends in (ranges.batch, ranges.sequence)):
            axis = "batch" if axes.batch > ranges.batch.max else "sequence"
            where = f"{key}.{axis}.max"
            size = getattr(ranges, axis).max + 1
            what = f"{key} has one shape only: beside other profiles TensorRT stores all weights again for it"
            yield Problem(what, where, f"{where}={size}, with axes.{axis} of {size} or more")


def _bench(key: str, where: str, value: int, ends: Range) -> Iterator[Problem]:
    """What is measured must fit into the profile."""
    if not ends.min <= value <= ends.max:
        what = f"{key}={value} is outside {where}, {ends.min} to {ends.max}"
        yield Problem(what, key, "choose a size inside the profile, or widen the profile")


def _by_key(profile: Profile) -> dict[str, Shapes | StepSizes]:
    """All profiles by their config keys."""
    named: dict[str, Shapes | StepSizes] = {"profile.prefill": profile.prefill, "profile.decode": profile.decode}
    for name, raw in profile.more.items():
        with contextlib.suppress(ValueError, TypeError):  # already reported
            named[f"profile.more.{name}"] = StepSizes.from_dict(raw)
    return named


SIDES = [(f"profile.{step}.{axis}", f"axes.{axis}") for step in ("prefill", "decode") for axis in AXES]
DECODE_STARTS = [f"profile.decode.{axis}.min" for axis in AXES]
MEASURED = [
    ("bench.prompt", "profile.prefill.sequence"),
    ("bench.batch", "profile.prefill.batch"),
    ("bench.batch", "profile.decode.batch"),
]
RULES: tuple[Rule, ...] = (
    *((partial(_range, side), side, axis) for side, axis in SIDES),
    (_more, "profile.more", "axes"),
    *((partial(_one_token, start), start) for start in DECODE_STARTS),
    (_gap, "profile"),
    (_static, "engine.kind", "profile", "axes"),
    *((partial(_bench, key, side), key, side) for key, side in MEASURED),
)
