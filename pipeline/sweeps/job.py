"""What a launcher starts: the build of one point up to a stage, in a folder of its own."""

import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from platform import node
from typing import Any

from omegaconf import DictConfig

from pipeline.core.errors import one_line
from pipeline.sweeps import dvc
from pipeline.sweeps.lineage import StageRun
from pipeline.sweeps.workspace import default_remote, own_cores, workspace

SLOTS = Path(".dvc/tmp/cores")
MARKER = Path(".dvc/tmp/sweep")  # of the folder in which a sweep leaves a file, by which jobs know the repository


@dataclass
class JobResult:
    """What a job did, or the error that it ended with. tail: the last lines of its output."""

    point: str
    runs: list[StageRun]
    tail: list[str]
    problem: str | None = None

    def as_values(self) -> dict[str, Any]:
        """Return it in types of Python's own: a launcher carries it to the front door, from another host as well."""
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "JobResult":
        """Make one of what `as_values` returned."""
        return cls(**{**values, "runs": [StageRun.of(run) for run in values["runs"]]})


@dataclass(frozen=True)
class Job:
    """Builds the point that a launcher names, up to a stage.

    root: the repository of the front door; marker: a file in it, which jobs see that share its disk. Others work in
    the copy of the repository that their launcher made, and hand over what they built through DVC's remote. cores: of
    this machine, for each of the jobs that share it; None where the launcher divides them.
    """

    root: str
    marker: str
    points: Mapping[str, Sequence[str]]
    stage: str
    cores: int | None

    def __call__(self, composed: DictConfig) -> dict[str, Any]:
        """Build it; what goes wrong is told in the result, so that other jobs go on."""
        point = str(composed.point)
        try:
            return self.build(point).as_values()
        except Exception as error:
            return JobResult(point, [], traceback.format_exc().splitlines(), one_line(error)).as_values()

    def build(self, point: str) -> JobResult:
        """Build a point."""
        shared = (Path(self.root) / self.marker).exists()
        root = Path(self.root) if shared else Path()
        remote = default_remote(root)
        if not shared and not remote:
            what = f"{node()} does not share {self.root}, and no DVC remote is set, through which it could hand over"
            return JobResult(point, [], [], f"{what} what it builds: dvc remote add --default NAME URL")
        with self._cores(root), workspace(root, point, self.points[point]) as folder:
            built = dvc.reproduce([self.stage], [point], [point], _printed(point), folder, pull=remote is not None)
            problem = built.problem
            if not shared and not problem:
                problem = dvc.push(folder)
        return JobResult(point, built.runs.get(point, []), built.tail, problem)

    def _cores(self, root: Path) -> AbstractContextManager[None]:
        return own_cores(self.cores, root / SLOTS) if self.cores else nullcontext()


def _printed(point: str) -> dvc.Progress:
    """Print a line when a stage has ended: to the terminal, or to the job's log."""

    def ended(_: str, run: StageRun) -> None:
        cost = f" {run.seconds:.1f} s" if run.seconds is not None else ""
        print(f"{run.stage}@{point}: {run.outcome}{cost}", flush=True)

    return dvc.Progress(ended=ended)
