"""Profiles: the sizes of batch and sequence that an engine takes, as a few named ranges.

    profiles = Profiles.from_config(section(Profile))
    profiles.admits(batch=4, sequence=1)
    profiles.shapes(contract)["decode"]["input_ids"]   # ((1, 1), (1, 1), (8, 1)): smallest, tuned and largest shape

The shapes of all inputs follow from the contract, so no two inputs can disagree. pipeline.config.rules_profiles checks
the ranges that a user gives.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.core.contract import GraphContract

if TYPE_CHECKING:
    from pipeline.core.schema import Profile  # imports OmegaConf, which an engine that runs does without

AXES = ("batch", "sequence")
ENDS = ("min", "opt", "max")
InputShapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # smallest, tuned and largest shape of one input


@dataclass(frozen=True)
class Sizes:
    """The sizes of one axis, from min to max; the engine is tuned for opt."""

    min: int
    opt: int
    max: int

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max


@dataclass(frozen=True)
class StepSizes:
    """One profile: rows, and new tokens per row, of a step."""

    batch: Sizes
    sequence: Sizes

    @classmethod
    def from_dict(cls, raw: Any) -> "StepSizes":
        """From {"batch": {"min": 1, "opt": 1, "max": 4}, "sequence": ...}. Raises ValueError for any other form."""
        axes = {axis: dict(ends) for axis, ends in raw.items()} if hasattr(raw, "items") else {}
        if {axis: set(ends) for axis, ends in axes.items()} != {axis: set(ENDS) for axis in AXES}:
            raise ValueError(raw)
        if not all(isinstance(size, int) for ends in axes.values() for size in ends.values()):
            raise ValueError(raw)
        return cls(Sizes(**axes["batch"]), Sizes(**axes["sequence"]))

    def admits(self, **sizes: int) -> bool:
        """Whether a step of these sizes fits: `step_sizes.admits(batch=4)`; an axis that is not given fits."""
        return all(size in getattr(self, axis) for axis, size in sizes.items())

    def text(self, *axes: str) -> str:
        """These axes for a message: "batch 1-8 x sequence 1-512"."""
        return " x ".join(f"{axis} {getattr(self, axis).min}-{getattr(self, axis).max}" for axis in axes)


@dataclass(frozen=True)
class Profiles:
    """All profiles of an engine by name, in the order in which a TensorRT plan has them."""

    by_name: Mapping[str, StepSizes]

    @classmethod
    def from_config(cls, profile: "Profile") -> "Profiles":
        """From the section `profile` of params.yaml."""
        named = {
            name: StepSizes(*(Sizes(*(getattr(getattr(shapes, axis), end) for end in ENDS)) for axis in AXES))
            for name, shapes in (("prefill", profile.prefill), ("decode", profile.decode))
        }
        return cls(named | {name: StepSizes.from_dict(raw) for name, raw in profile.more.items()})

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Profiles":
        """From what `to_json` gave. Raises KeyError, TypeError or AttributeError for another form, and ValueError for
        sizes that do not go from 1 up."""
        named = {}
        for name, axes in raw.items():
            step = StepSizes(*(Sizes(*(axes[axis][end] for end in ENDS)) for axis in AXES))
            for axis, sizes in (("batch", step.batch), ("sequence", step.sequence)):
                ends = sizes.min, sizes.opt, sizes.max
                if not all(type(size) is int for size in ends) or not 1 <= sizes.min <= sizes.opt <= sizes.max:
                    raise ValueError(f"{name}.{axis} has min {sizes.min!r}, opt {sizes.opt!r}, max {sizes.max!r}")
            named[name] = step
        if not named:
            raise ValueError("there is no profile")
        return cls(named)

    @classmethod
    def of_axes(cls, contract: GraphContract) -> "Profiles":
        """Those of a model that was built for no profiles: whatever its declared axes allow."""
        return cls({"axes": StepSizes(*(Sizes(1, 1, contract.axes[axis]) for axis in AXES))})

    def to_json(self) -> dict[str, Any]:
        """As it stands in engine.json."""
        return {name: asdict(step) for name, step in self.by_name.items()}

    def admitting(self, **sizes: int) -> "Profiles":
        """Those that take a step of these sizes; an axis that is not given is any size."""
        return Profiles({name: step for name, step in self.by_name.items() if step.admits(**sizes)})

    def admits(self, **sizes: int) -> bool:
        """Whether some profile takes a step of these sizes."""
        return any(step.admits(**sizes) for step in self.by_name.values())

    def tightest(self, batch: int, sequence: int) -> int:
        """The index of the profile that takes these sizes with the least room to spare. Raises ValueError when none
        takes them."""
        return min(
            (step.sequence.max, step.batch.max, index)
            for index, step in enumerate(self.by_name.values())
            if step.admits(batch=batch, sequence=sequence)
        )[2]

    def max(self, axis: str) -> int:
        """The largest size of an axis in any profile. Raises ValueError when there is no profile."""
        sizes: list[Sizes] = [getattr(step, axis) for step in self.by_name.values()]
        return max(one.max for one in sizes)

    def max_sizes(self) -> dict[str, int]:
        """The largest size of each axis."""
        return {axis: self.max(axis) for axis in AXES}

    def widened(self, batch: int) -> "Profiles":
        """The same with room for at least `batch` rows."""
        return Profiles(
            {
                name: replace(step, batch=replace(step.batch, max=max(batch, step.batch.max)))
                for name, step in self.by_name.items()
            }
        )

    def shapes(self, contract: GraphContract) -> dict[str, dict[str, InputShapes]]:
        """Profile -> input -> its smallest, tuned and largest shape."""

        def sized(tensor: Any, step: StepSizes) -> InputShapes:
            small, tuned, large = (
                tensor.sized(batch=getattr(step.batch, end), sequence=getattr(step.sequence, end)) for end in ENDS
            )
            return small, tuned, large

        return {
            name: {tensor.name: sized(tensor, step) for tensor in contract.inputs}
            for name, step in self.by_name.items()
        }
