"""Whether a build fits: what its stages take, against the memory and the disk of this machine or container."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import machine
from pipeline.core.errors import Problem
from pipeline.planning.estimate import GB, Cost

GO_ON = "check_size=false builds it all the same"


@dataclass(frozen=True)
class Room:
    """Bytes. memory: what this machine or container allows, and free_memory of it now; free_disk: where DVC works."""

    memory: int
    free_memory: int
    free_disk: int

    @classmethod
    def here(cls, folder: Path = Path()) -> "Room":
        """Return that of this machine, with the disk that holds `folder`."""
        return cls(machine.memory_limit(), machine.memory_available(), shutil.disk_usage(folder).free)


def disk_needed(costs: Mapping[str, Cost], built: Path) -> int:
    """Count the bytes that a build adds to the disk. built: the point's folder, whose files it replaces."""
    present = sum(path.stat().st_size for path in _files(built))
    return max(sum(cost.disk + cost.cached for cost in costs.values()) - present, 0)


def problems(point: str, costs: Mapping[str, Cost], disk: int, room: Room) -> Iterator[Problem]:
    """Find what does not fit: each stage that holds more than the memory, and a build that needs more than the disk
    has. Pages of mapped files do not count: the system drops them when it has to."""
    for stage, cost in costs.items():
        if cost.held > room.memory:
            what = f"stage {stage} of the point {point} holds {cost.held / GB:.1f} GB of memory"
            yield Problem(
                f"{what}; this machine or container has {room.memory / GB:.1f} GB",
                "model",
                f"take a smaller model, cache.size, or axes.batch, or a machine with more memory; {GO_ON}",
            )
    if disk > room.free_disk:
        yield Problem(
            f"the point {point} takes {disk / GB:.1f} GB of disk more; {room.free_disk / GB:.1f} GB are free",
            str(Path.cwd()),
            f"free some space: dvc gc --workspace removes what no point uses; {GO_ON}",
        )


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in folder.glob("*/*") if path.is_file() and not path.parent.is_symlink())
