"""Profiles: the shapes that an engine is built for, of every input, out of a few ranges for batch and sequence.

The shapes follow from the contract, so no two inputs can disagree. pipeline.config.rules_profiles finds what is wrong
with the ranges.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.core.contract import GraphContract
from pipeline.core.schema import Profile, Range, Shapes

ShapeRange = tuple[tuple[int, ...], ...]  # of one input: its smallest, tuned and largest shape
Bounds = Mapping[str, Mapping[str, tuple[int, int]]]  # profile -> axis -> (min, max)
ENDS = ("min", "opt", "max")


def named(profile: Profile) -> dict[str, Shapes]:
    """All profiles by their names, in the order in which an engine has them."""
    return {"prefill": profile.prefill, "decode": profile.decode} | {
        n: to_shapes(raw) for n, raw in profile.more.items()
    }


def to_shapes(raw: Any) -> Shapes:
    """{"batch": {"min": 1, "opt": 1, "max": 4}, "sequence": ...} as Shapes. Raises ValueError for any other form."""
    axes = {axis: dict(ends) for axis, ends in raw.items()} if hasattr(raw, "items") else {}
    whole = {axis: set(ends) == {"min", "opt", "max"} for axis, ends in axes.items()}
    if whole != {"batch": True, "sequence": True}:
        raise ValueError(raw)
    if not all(isinstance(size, int) for ends in axes.values() for size in ends.values()):
        raise ValueError(raw)
    return Shapes(Range(**axes["batch"]), Range(**axes["sequence"]))


def shapes(profile: Profile, contract: GraphContract) -> dict[str, dict[str, ShapeRange]]:
    """Profile -> input -> its smallest, tuned and largest shape."""
    return {
        name: {
            tensor.name: tuple(
                tensor.sized(batch=getattr(ranges.batch, end), sequence=getattr(ranges.sequence, end)) for end in ENDS
            )
            for tensor in contract.inputs
        }
        for name, ranges in named(profile).items()
    }


def axes_bounds(contract: GraphContract) -> Bounds:
    """The bounds of a model that was built for no profiles: its declared axes."""
    return {"axes": {name: (1, most) for name, most in contract.axes.items()}}


def largest(bounds: Bounds) -> dict[str, int]:
    """The largest size of each axis in any profile."""
    return {axis: max(axes[axis][1] for axes in bounds.values()) for axis in ("batch", "sequence")}
