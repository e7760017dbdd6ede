"""Have a launcher of Hydra start jobs, and bring back what they did."""

import uuid
from collections.abc import Mapping, Sequence
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
