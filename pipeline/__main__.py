"""Build points: a model, its engine, and all measurements of it.

All jobs are checked first, and every mistake in any of them is shown before anything is built. Each job becomes a
point in params.yaml. DVC builds them all in one call, or a launcher of Hydra starts jobs side by side first.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from pipeline.config import compose as config
from pipeline.config import points, reference
from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.sweeps import build, goals, jobs, launchers
from pipeline.sweeps.expect import expected
from pipeline.sweeps.phases import sections_of_stages
from pipeline.sweeps.summary import summary
from pipeline.sweeps.view import view

SWEEP = {"-m", "--multirun"}
HELP = """\
  group=option   choose an option of a group below: model=qwen3_0_6b precision=int8
  key=value      override a key of the configuration below, which shows the defaults: cache.size=2048
  point=NAME     name of the point; default: derived from the overrides
  -m             sweep: values separated by commas make one point each
  goal=smallest  of a sweep, build to the end only what can be the smallest good engine; also goal=fastest
  hydra/launcher=joblib
                 build the points of a sweep side by side; also submitit_slurm, ray

Keys; docs/configuration.md says more, and what each accepts:"""
HYDRA = "\nHydra shows the groups with their options, and the defaults:"
INFO_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def check_sizes(arguments: list[str]) -> list[dict[str, Any]]:
    """Return what the jobs will take, as `pipeline.plan` tells it. End with 1 when one does not fit into this machine's
    memory or on its disk; what it needs is printed.

    In a process of its own: PyTorch, which finds the sizes, would stay in memory while the stages run.
    """
    command = [sys.executable, "-m", "pipeline.plan", "--check", "--json", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    plans: list[dict[str, Any]] = json.loads(done.stdout)
    return plans


def write_report(names: list[str]) -> None:
    """Write the report of these points, in a process of its own: no command imports a command."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.report", "--no-plan", *names], stdout=subprocess.PIPE, text=True
    )
    print(done.stdout.strip(), flush=True)


def sweep(arguments: list[str], flags: set[str]) -> int:
    """Build the points that the arguments ask for, print a summary, and return the exit code."""
    wanted = jobs.plan(arguments, bool(flags & SWEEP))
    names = list(wanted.overrides)
    plans = check_sizes([*arguments, *flags]) if wanted.unchecked else []
    points.record_all(wanted.overrides)
    given = jobs.of_hydra(arguments)
    launcher = launchers.chosen(given)
    done = {}
    new = build.not_built(names) if launcher != launchers.BASIC else []
    if new:
        memory = max((plan["memory"] for plan in plans), default=0)
        last = "engine" if wanted.goal.find else "verify"
        chosen = {name: wanted.configurations[name] for name in new}
        done = build.run_jobs(wanted.overrides, chosen, launcher, given, memory, last)
        build.show_tail(done)
    seconds = expected(plans, wanted.configurations, sections_of_stages())
    with view(names, seconds) as progress:
        if wanted.goal.find:
            found = goals.search(names, wanted.goal, done, progress)
            failed = found.failed
        else:
            found, failed = None, build.collect(names, done, progress).failed
    print(*summary(names, failed), sep="\n")
    if flags & SWEEP and (progress.changed or not Path(layout.REPORT).exists()):
        write_report(names)
    if found:
        print(*goals.lines(found, wanted.goal), sep="\n")
        return 0 if found.best else 1
    return 1 if failed else 0


def _nothing(_: DictConfig) -> None:
    """What Hydra runs for the flags that only show something."""


def main() -> None:
    """Check all jobs, build them, and print a summary; exit code 1 when a point was not built."""
    flags = {argument.partition("=")[0] for argument in sys.argv[1:] if argument.startswith("-")}
    if flags & {"-h", "--help"}:
        print(usage.Parser(main, "", "[group=option | key=value ...] [point=NAME] [-m]", HELP).format_help())
        print(*reference.listing(), HYDRA, sep="\n")
    if flags & INFO_FLAGS:
        hydra.main(version_base="1.3", config_path=str(config.CONF.resolve()), config_name=config.MAIN)(_nothing)()
        return
    if flags - SWEEP:
        fix = "remove it: a point consists of conf/ and overrides; -m makes a sweep"
        raise UserError([Problem(f"{flag} cannot be used here", flag, fix) for flag in sorted(flags - SWEEP)])
    sys.exit(sweep([argument for argument in sys.argv[1:] if not argument.startswith("-")], flags))


if __name__ == "__main__":
    errors.run(main)
