"""Launchers of Hydra that start jobs side by side: how each is told what a job needs, and how many may run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

BASIC = "basic"  # Hydra's default: one job after the other, in the repository itself
GB = 2**30
CORES_OF_A_NODE = 4  # a Slurm job's; a build uses one for most of its time
SPARE = 1.15  # memory that is asked for, of what `python -m pipeline.plan` estimates


@dataclass(frozen=True)
class Needs:
    """What a job needs and what there is here. memory: bytes a job; free: bytes of this machine; jobs: in all."""

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
    gigabytes = math.ceil(needs.memory * SPARE / GB)
    own: dict[str, dict[str, object]] = {
        "joblib": {"hydra.launcher.n_jobs": needs.at_once},
        "submitit_local": {"hydra.sweeper.max_batch_size": needs.at_once},  # it starts all jobs of a batch at once
        "submitit_slurm": {"hydra.launcher.cpus_per_task": CORES_OF_A_NODE, "hydra.launcher.mem_gb": max(1, gigabytes)},
        "ray": {
            "+hydra.launcher.ray.remote.num_cpus": needs.cores_each,
            "+hydra.launcher.ray.remote.memory": int(needs.memory * SPARE),
        },
    }
    keys = {text.lstrip("+").partition("=")[0] for text in given}
    return [f"{key}={value}" for key, value in own.get(launcher, {}).items() if key.lstrip("+") not in keys]


def shares_this_machine(launcher: str) -> bool:
    """Whether the jobs run on this machine beside each other, and share its cores."""
    return launcher in {"joblib", "submitit_local"}
