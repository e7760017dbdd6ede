"""What is wrong with the ranges of the profiles, in the words of the config's keys; pipeline.config.rules has the
other rules."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from pipeline.core.engines import KINDS
from pipeline.core.errors import Problem
from pipeline.core.profiles import Sizes, StepSizes
from pipeline.core.schema import Config, Range, Shapes

SIDES = [(step, axis) for step in ("prefill", "decode") for axis in ("batch", "sequence")]


def _side(config: Config, step: str, axis: str) -> Iterator[Problem]:
    """One axis of prefill or decode."""
    yield from _range(config, f"profile.{step}.{axis}", getattr(getattr(config.profile, step), axis), axis)


def _more(config: Config) -> Iterator[Problem]:
    """The profiles that were added by name."""
    for name, raw in config.profile.more.items():
        where = f"profile.more.{name}"
        try:
            ranges = StepSizes.from_dict(raw)
        except (ValueError, TypeError):
            fix = f"give +{where}={{batch: {{min: 1, opt: 1, max: 4}}, sequence: {{min: 1, opt: 64, max: 64}}}}"
            yield Problem(f"{where} has not batch and sequence, each with min, opt and max", where, fix)
            continue
        if name in ("prefill", "decode"):
            yield Problem(f"there is a profile {name} already", where, f"set profile.{name}, or choose another name")
        for axis in ("batch", "sequence"):
            ends: Sizes = getattr(ranges, axis)
            if min(ends.min, ends.opt, ends.max) < 1:
                yield Problem(f"{where}.{axis} goes below 1", f"{where}.{axis}", "give 1 or more")
            yield from _range(config, f"{where}.{axis}", ends, axis)


def _range(config: Config, where: str, ends: Range | Sizes, axis: str) -> Iterator[Problem]:
    """In order, and inside the declared axis."""
    if not ends.min <= ends.opt <= ends.max:
        order = f"min {ends.min}, opt {ends.opt}, max {ends.max}"
        yield Problem(f"{where} is out of order: {order}", where, "make it min <= opt <= max")
    most = getattr(config.axes, axis)
    if ends.max > most:
        yield Problem(
            f"{where}.max={ends.max} is above axes.{axis}={most}",
            f"{where}.max",
            f"{where}.max={most} at most, axes.{axis}={ends.max}, or the option of profile/ that fits the axes",
        )


def _one_token(config: Config, axis: str) -> Iterator[Problem]:
    """Generating for one row is in no profile but decode: it must be there."""
    least = getattr(config.profile.decode, axis).min
    if least > 1:
        where = f"profile.decode.{axis}.min"
        yield Problem(f"{where}={least} leaves out the step of one row and one token", where, f"{where}=1")


def _gap(config: Config) -> Iterator[Problem]:
    """Every batch from 1 on and, for each batch, every sequence from 1 on is in some profile, up to the largest."""
    named = _by_key(config)
    if any(
        not 1 <= getattr(r, axis).min <= getattr(r, axis).max for r in named.values() for axis in ("batch", "sequence")
    ):
        return  # said already
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


def _static(config: Config) -> Iterator[Problem]:
    """A profile of one shape beside another: TensorRT stores all weights once more for it. The plan of SmolLM2-135M in
    fp16 has 500 MB then; 288 with a batch of 1 to 2, 290 with a sequence of 1 to 2."""
    named = _by_key(config)
    if not KINDS[config.engine.kind].static_costs or len(named) < 2:
        return
    for key, ranges in named.items():
        if all(ends.min == ends.max for ends in (ranges.batch, ranges.sequence)):
            axis = "batch" if config.axes.batch > ranges.batch.max else "sequence"
            where = f"{key}.{axis}.max"
            size = getattr(ranges, axis).max + 1
            what = f"{key} has one shape only: beside other profiles TensorRT stores all weights again for it"
            yield Problem(what, where, f"{where}={size}, with axes.{axis} of {size} or more")


def _by_key(config: Config) -> dict[str, Shapes | StepSizes]:
    """All profiles by their config keys."""
    profile = config.profile
    named: dict[str, Shapes | StepSizes] = {"profile.prefill": profile.prefill, "profile.decode": profile.decode}
    for name, raw in profile.more.items():
        with contextlib.suppress(ValueError, TypeError):  # said already
            named[f"profile.more.{name}"] = StepSizes.from_dict(raw)
    return named


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    *(functools.partial(_side, step=step, axis=axis) for step, axis in SIDES),
    _more,
    *(functools.partial(_one_token, axis=axis) for axis in ("batch", "sequence")),
    _gap,
    _static,
)
