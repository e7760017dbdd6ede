"""The jobs of a command line: every one composed and checked before anything is built."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.config import points
from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Goal
from pipeline.sweeps.summary import report

OF_HYDRA = ("hydra.", "hydra/")


@dataclass
class Jobs:
    """The points of a command line, in its order. overrides: name -> those of the point. configurations: name -> what
    they resolve to. unchecked: names of points that were not built before, whose size is to be checked. goal: what they
    are searched for."""

    overrides: dict[str, list[str]] = field(default_factory=dict)
    configurations: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    unchecked: set[str] = field(default_factory=set)
    goal: Goal = field(default_factory=Goal)


def of_hydra(arguments: Sequence[str]) -> list[str]:
    """Return those overrides that concern Hydra itself: its launcher and the like."""
    return [text for text in arguments if text.lstrip("+~").startswith(OF_HYDRA)]


def plan(arguments: Sequence[str], sweep: bool) -> Jobs:
    """Compose and check all jobs. Raises one UserError with the problems of all of them."""
    jobs = Jobs()
    known = points.read()
    problems: dict[Problem, None] = {}  # an ordered set: jobs share most of their mistakes
    for job in config.expand(arguments) if sweep else [list(arguments)]:
        try:
            composed = config.compose(job)
            own = points.point_overrides(job)
            name = composed.point or points.name_of(own, known, config.CONF)
            if name in jobs.overrides and not points.equivalent(jobs.overrides[name], own):
                both = f"{' '.join(jobs.overrides[name])}, and {' '.join(own)}"
                what = f"two jobs would both build the point {name}: {both}"
                raise UserError(Problem(what, "point", "remove point= from the sweep: each job then gets its own name"))
            built = name in known and points.equivalent(known[name], own) and report(name, layout.ACCURACY)
            if composed.check_size and not built:
                jobs.unchecked.add(name)
            jobs.overrides[name] = known[name] = own
            jobs.goal = cast(Goal, OmegaConf.to_object(composed.goal))
            values = OmegaConf.to_container(composed, enum_to_str=True)
            assert isinstance(values, dict)
            jobs.configurations[name] = {str(key): value for key, value in values.items()}
        except UserError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise UserError(problems)
    return jobs
