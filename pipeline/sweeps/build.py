"""Build points: jobs side by side where a launcher was chosen, and then all of them here, by one call of DVC.

The last step is the same with every launcher. It takes from DVC's cache what jobs have put there, builds the rest, and
measures speed, one point after the other: a benchmark beside another process measures noise.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import points
from pipeline.core import machine
from pipeline.core.tables import stages
from pipeline.sweeps import dvc, launchers, lineage
from pipeline.sweeps.job import JobResult
from pipeline.sweeps.launchers import Needs, launch
from pipeline.sweeps.phases import STAGES, Phase, phases, sections_of_stages
from pipeline.sweeps.workspace import default_remote, remove_leftovers

ROOT = Path()


@dataclass
class Result:
    """What became of a sweep. failed: point -> why it was not built."""

    failed: dict[str, str] = field(default_factory=dict)


def not_built(names: Sequence[str]) -> list[str]:
    """Return those of the points that DVC has work for."""
    changed = dvc.changed()
    return [name for name in names if changed is None or name in changed]


def run_jobs(
    wanted: Mapping[str, Sequence[str]],
    configurations: Mapping[str, Mapping[str, Any]],
    launcher: str,
    given: Sequence[str],
    memory: int,
    last: str = STAGES[-1],
) -> dict[str, JobResult]:
    """Build points side by side under a launcher, into DVC's cache; return what each one's jobs did.

    wanted: name -> overrides; configurations: name -> what they resolve to. memory: bytes that a job needs. last: the
    stage up to which they are built. A point that fails is left out of later phases.
    """
    remove_leftovers(ROOT)
    results: dict[str, JobResult] = {}
    for phase in phases(configurations, sections_of_stages(), last):
        going = [name for name in phase.points if name not in results or failure(results[name]) is None]
        needs = Needs(memory, machine.memory_available(), machine.cores(), len(going))
        own = launchers.overrides(launcher, needs, given)
        cores = needs.cores_each if launchers.shares_this_machine(launcher) else None
        print(f"{launcher}: {len(going)} points up to {phase.stage}", flush=True)
        for done in launch(Phase(phase.stage, tuple(going)), wanted, [*given, *own], cores):
            former = results.get(done.point)
            done.runs = lineage.merged((), former.runs if former else (), done.runs)
            results[done.point] = done
    return results


def collect(
    names: Sequence[str],
    jobs: Mapping[str, JobResult],
    progress: dvc.Progress,
    asked: Sequence[str] = stages.last(),
) -> Result:
    """Build points in the repository; `jobs` has run some of their stages. Each point gets its lineage.json.

    asked: the stages that DVC is asked for, with all that they need.
    """
    result = Result({name: why for name in jobs if (why := failure(jobs[name]))})
    going = [name for name in names if name not in result.failed]
    # One build at a time: when two want the same stage DVC fails one of them, even with --wait-for-lock.
    with points.locked("kvforge.lock"):
        pull = default_remote(ROOT) is not None
        built = dvc.reproduce(asked, going, points.read(), progress, pull=pull) if going else dvc.Built()
        for name in names:
            by_job = jobs[name].runs if name in jobs else []
            runs = lineage.merged(lineage.read(points.ARTIFACTS / name), by_job, built.runs.get(name, []))
            if runs:
                lineage.write(points.ARTIFACTS / name, runs)
    for name in going:
        if run := built.failed(name):
            result.failed[name] = f"{run.stage}: {run.error}"
        elif built.problem or any(run.outcome == "skipped" for run in built.runs.get(name, ())):
            result.failed[name] = built.problem or "a stage before it failed"
    return result


def failure(job: JobResult) -> str | None:
    """Return why a job did not build its point; None when it did."""
    if job.problem:
        return job.problem
    failed = next((run for run in job.runs if run.outcome == "failed"), None)
    return f"{failed.stage}: {failed.error}" if failed else None


def show_tail(jobs: Mapping[str, JobResult]) -> None:
    """Print the last lines of each job that failed, to stderr."""
    for name, job in jobs.items():
        if failure(job):
            print(f"--- {name}, the end of its output", *job.tail[-30:], sep="\n", file=sys.stderr)
