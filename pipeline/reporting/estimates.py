"""What pipeline.plan says of points that have been composed: the cost of each stage, without loading weights."""

from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from pipeline.core.errors import UserError
from pipeline.core.schema import Config, Model
from pipeline.planning.estimate import Cost, costs
from pipeline.planning.model_sizes import ModelSizes, model_sizes

Costs = dict[str, Cost]


class Estimates:
    """The estimates of points, in which each model is looked at once: that imports torch and takes seconds."""

    def __init__(self) -> None:
        self._sizes: dict[str, ModelSizes | UserError] = {}

    def of(self, params: Path) -> tuple[Costs, str]:
        """The cost of each stage by a point's params.yaml, or none and why."""
        composed = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(params)))
        model = cast(Model, OmegaConf.to_object(composed.model))
        if repr(model) not in self._sizes:
            try:
                self._sizes[repr(model)] = model_sizes(model)
            except UserError as error:
                self._sizes[repr(model)] = error
        sizes = self._sizes[repr(model)]
        return ({}, sizes.problems[0].what) if isinstance(sizes, UserError) else (costs(composed, sizes), "")


class NoEstimates:
    """In place of Estimates, where none were asked for."""

    def of(self, params: Path) -> tuple[Costs, str]:
        """None, and why."""
        return {}, "not asked for (--no-plan)"
