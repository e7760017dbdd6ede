"""Launchers of Hydra that start jobs side by side: how each is told what a job needs, and what the jobs bring back."""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn

from pipeline.config.compose import CONF, MAIN
from pipeline.config.diagnose import HYDRA_ERRORS
from pipeline.core.errors import Problem, UserError, one_line
from pipeline.sweeps import job
from pipeline.sweeps.job import Job, JobResult
from pipeline.sweeps.phases import Phase

BASIC = "basic"  # Hydra's default: one job after the other, in the repository itself
GB = 2**30
CORES_OF_A_NODE = 2  # of a job on another host; a build uses one for most of its time
SPARE = 1.15  # memory that is asked for, of what `python -m pipeline.plan` estimates


@dataclass(frozen=True)
class Needs:
    """What a job needs, and what there is on this machine. memory: bytes a job; free: bytes here; jobs: in all."""

    memory: int
    free: int
    cores: int
    jobs: int

    @property
    def at_once(self) -> int:
        """The jobs that this machine runs side by side."""
        fitting = self.free // int(self.memory * SPARE) if self.memory else self.cores
        return max(1, min(self.cores, self.jobs, fitting))

    @property
    def cores_each(self) -> int:
        """The cores of this machine that each of them has."""
        return max(1, self.cores // self.at_once)


def overrides(launcher: str, needs: Needs, given: Sequence[str]) -> list[str]:
    """Return Hydra's overrides that tell a launcher what the jobs need. What the user has given stays as it is, and
    launchers that are not known here get none."""
    memory = int(needs.memory * SPARE)  # 0: not known, and the launcher's default holds
    ray: dict[str, int] = {"+hydra.launcher.ray.remote.memory": memory} if memory else {}
    slurm: dict[str, int] = {"hydra.launcher.mem_gb": math.ceil(memory / GB)} if memory else {}
    # of this machine alone: it would connect to a cluster that runs, or to one that has ended without a word
    here = {"hydra.launcher.ray.init.address": "local"}
    own: dict[str, dict[str, int] | dict[str, int | str]] = {
        "joblib": {"hydra.launcher.n_jobs": needs.at_once},
        "submitit_local": {"hydra.sweeper.max_batch_size": needs.at_once},  # it starts all jobs of a batch at once
        "submitit_slurm": slurm | {"hydra.launcher.cpus_per_task": CORES_OF_A_NODE},
        "ray": here | ray | {"+hydra.launcher.ray.remote.num_cpus": needs.cores_each},
        "ray_cluster": ray | {"+hydra.launcher.ray.remote.num_cpus": CORES_OF_A_NODE},
    }
    keys = {text.lstrip("+").partition("=")[0] for text in given}
    return [f"{key}={value}" for key, value in own.get(launcher, {}).items() if key.lstrip("+") not in keys]


def shares_this_machine(launcher: str) -> bool:
    """Whether the jobs run on this machine beside each other, and share its cores."""
    return launcher in {"joblib", "submitit_local"}


def chosen(given: Sequence[str]) -> str:
    """Return the name of the launcher that `given` and the configuration choose: basic, joblib, ...

    given: overrides that concern Hydra. Raises UserError when Hydra cannot take them.
    """
    try:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            composed = hydra.compose(MAIN, list(given), return_hydra_config=True)
    except HYDRA_ERRORS as error:
        what = f"Hydra cannot take {' '.join(given)}: {one_line(error)}"
        fix = "pip install -e '.[joblib]' (or submitit, ray) installs a launcher; without one, jobs run one by one"
        raise UserError(Problem(what, "hydra/launcher", fix)) from error
    return str(composed.hydra.runtime.choices["hydra/launcher"])


def launch(
    phase: Phase, points: Mapping[str, Sequence[str]], given: Sequence[str], cores: int | None
) -> list[JobResult]:
    """Start a job for each point of a phase and wait for all.

    points: name -> overrides. given: Hydra's overrides, the launcher's among them. Raises UserError when the launcher
    itself fails, as when a job's process is killed.
    """
    marker = job.MARKER / f"{uuid.uuid4().hex}.front"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    task = Job(
        str(Path().resolve()), str(marker), {name: list(points[name]) for name in phase.points}, phase.stage, cores
    )
    names = ",".join(f"'{name}'" for name in phase.points)
    try:
        with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
            front = GlobalHydra.instance().hydra
            assert front
            sweep = [f"point={names}", *given]
            batches: list[list[JobReturn]] = front.multirun(MAIN, task, sweep, with_log_configuration=False)
        return [JobResult.of(done.return_value) for batch in batches for done in batch]
    except Exception as error:
        if isinstance(error, UserError):
            raise
        what = f"the launcher ended before its jobs had: {one_line(error)}"
        raise UserError(
            Problem(what, "hydra/launcher", "run the same command again: it goes on where it was")
        ) from error
    finally:
        marker.unlink()
