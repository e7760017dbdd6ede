"""room: what does not fit is refused with the numbers, what the system can drop is not counted."""

from pathlib import Path

import pytest

from pipeline.planning.estimate import GB, Cost
from pipeline.planning.room import Room, disk_needed, problems

ROOM = Room(memory=8 * GB, free_memory=6 * GB, free_disk=10 * GB)
COSTS = {"wrap": Cost(((7 * GB, 4 * GB), (5 * GB, 0)), 3 * GB, 3 * GB), "bench": Cost(((GB, 0),))}


def test_mapped_files_may_exceed_the_memory() -> None:
    """Stage wrap shows 11 GB of a machine's 8, of which the system drops 4 when it has to."""
    assert COSTS["wrap"].memory == 11 * GB
    assert not list(problems("p", COSTS, 6 * GB, ROOM))


def test_each_stage_that_does_not_fit_is_named() -> None:
    """With what it holds, what there is, and how to go on all the same."""
    costs = COSTS | {"verify": Cost(((9 * GB, 0),)), "bench": Cost(((10 * GB, 0),))}
    bench, verify = problems("p", costs, 0, ROOM)
    assert verify.what == "stage verify of the point p holds 9.0 GB of memory; this machine or container has 8.0 GB"
    assert "bench" in bench.what
    assert "check_size=false" in verify.fix


def test_a_full_disk() -> None:
    """The whole build counts."""
    (problem,) = problems("p", COSTS, 12 * GB, ROOM)
    assert problem.what == "the point p takes 12.0 GB of disk more; 10.0 GB are free"
    assert "check_size=false" in problem.fix


def test_files_that_are_replaced_are_not_needed_again(tmp_path: Path) -> None:
    """Those of the point's folder; a checkpoint behind a link is not part of it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(bytes(500))
    point = tmp_path / "point"
    (point / "wrapped").mkdir(parents=True)
    (point / "wrapped" / "model.pt2").write_bytes(bytes(100))
    (point / "checkpoint").symlink_to(tmp_path / "elsewhere")
    costs = {"wrap": Cost(((0, 0),), 300, 200)}
    assert disk_needed(costs, point) == 400
    assert disk_needed(costs, tmp_path / "new") == 500
    assert disk_needed({"wrap": Cost(((0, 0),), 10)}, point) == 0


def test_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own numbers."""
    room = Room.here(tmp_path)
    assert 0 < room.free_memory <= room.memory
    assert room.free_disk > 0
