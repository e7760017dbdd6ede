"""Show what a build will take, before anything is built: memory, disk and time of every stage.

It takes the overrides of `python -m pipeline`, with -m those of a sweep, and loads no weights. Memory is that of a
stage's largest process, pages of mapped files included; disk is what a stage leaves in the point's folder, and beside
it in DVC's cache. Time is that of the nearest earlier run on this machine, in proportion to the model's parameters.
GB are 2^30 bytes. The exit code is 1 when a build fits neither into this machine's memory nor on its disk:
`python -m pipeline` refuses it then.
"""

import gc
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from pipeline.config import compose as config
from pipeline.config import points
from pipeline.core import errors, usage
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model
from pipeline.core.stage import SETTINGS
from pipeline.planning import history
from pipeline.planning.estimate import GB, costs, parts
from pipeline.planning.model_sizes import ModelSizes, model_sizes
from pipeline.planning.room import Room, disk_needed, problems

Plan = dict[str, Any]
HEADINGS = ("stage", "memory", "disk", "DVC cache", "time")
SIZES = ("memory", "disk", "cached")  # of a stage, in bytes


def plan(name: str, composed: DictConfig, sizes: ModelSizes, room: Room) -> tuple[Plan, list[Problem]]:
    """Return what a point takes, in bytes and seconds, and what does not fit."""
    chosen = {key: OmegaConf.select(composed, key) for key in SETTINGS}
    settings = {key: getattr(value, "value", value) for key, value in chosen.items()}
    runs, found = history.read(), costs(composed, sizes)
    disk = disk_needed(found, points.ARTIFACTS / name)
    stages = {
        stage: {
            "memory": cost.memory,
            "disk": cost.disk,
            "cached": cost.cached,
            "seconds": history.seconds(runs, stage, sizes.parameters, settings),
        }
        for stage, cost in found.items()
    }
    shown = {"point": name, "parameters": sizes.parameters, **parts(composed, sizes), "stages": stages}
    peak = max(cost.memory for cost in found.values())
    return shown | {"memory": peak, "new_disk": disk, "room": asdict(room)}, list(problems(name, found, disk, room))


def lines(shown: Plan) -> Iterator[str]:
    """A plan for people."""
    yield (
        f"{shown['point']}: {shown['parameters'] / 1e6:,.1f} million parameters, "
        f"{_gb(shown['weights'])} in the compute type, {_gb(shown['checkpoint'])} in the checkpoint"
    )
    yield (
        f"cache {_gb(shown['cache_row'])} a row, {_gb(shown['caches'])} of the largest batch; "
        f"largest activation {_gb(shown['activations'])}"
    )
    stages = shown["stages"]
    rows: list[tuple[str, ...]] = [HEADINGS]
    for stage, cost in stages.items():
        rows.append((stage, *(_gb(cost[name]) for name in SIZES), _time(cost["seconds"])))
    sums = [sum(cost[name] for cost in stages.values()) for name in SIZES[1:]]
    times = [cost["seconds"] for cost in stages.values()]
    rows.append(("all", _gb(shown["memory"]), *map(_gb, sums), _time(None if None in times else sum(times))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *cells in rows:
        rest = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *rest])
    room = shown["room"]
    yield (
        f"here: {_gb(room['memory'])} of memory, {_gb(room['free_memory'])} of it free; "
        f"{_gb(room['free_disk'])} of disk free, of which the build takes {_gb(shown['new_disk'])}"
    )


def _gb(size: int) -> str:
    return f"{size / GB:.2f} GB"


def _time(seconds: float | None) -> str:
    return "no earlier run" if seconds is None else f"{seconds:,.0f} s"


def main() -> None:
    """Show the plans of all jobs; raise UserError with all that does not fit."""
    parser = usage.Parser(main, "plan", "[group=option | key=value ...] [point=NAME] [-m] [--json]")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of python -m pipeline")
    parser.add_argument("-m", "--multirun", action="store_true", help="values separated by commas make one point each")
    parser.add_argument("--json", action="store_true", help="bytes and seconds, as a list of JSON objects")
    parser.add_argument("--check", action="store_true", help="show only what does not fit")
    given = parser.parse()
    found, missing, sized = [], [], dict[str, ModelSizes]()
    room = Room.here()
    known = points.read()
    for overrides in config.expand(given.overrides) if given.multirun else [given.overrides]:
        composed = config.compose(overrides)
        name = composed.point or points.name_of(points.point_overrides(overrides), known, config.CONF)
        model = cast(Model, OmegaConf.to_object(composed.model))
        try:
            sizes = sized.get(repr(model)) or sized.setdefault(repr(model), model_sizes(model))
        except UserError:
            if given.check:
                continue  # stage wrap reports it
            raise
        shown, problems = plan(name, composed, sizes, room)
        found.append(shown)
        missing += problems if composed.check_size or not given.check else []
    if given.json:
        print(json.dumps(found, indent=2))
    elif not given.check:
        print("\n\n".join("\n".join(lines(shown)) for shown in found))
    if missing:
        raise UserError(missing)


if __name__ == "__main__":
    gc.disable()  # the process ends soon, and importing torch makes many objects
    errors.run(main)
