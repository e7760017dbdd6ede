"""Build points: a model, its engine, and all measurements of it.

All jobs are checked first, and every mistake in any of them is shown before anything is built. Then Hydra starts
the jobs with the chosen launcher. Each job records its point in params.yaml and has DVC build it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pipeline.config import compose as config
from pipeline.config import points, reference
from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.core.tables import stages

SWEEP = {"-m", "--multirun"}
HELP = """\
  group=option   choose an option of a group below: model=qwen3_0_6b precision=int8
  key=value      override a key of the configuration below, which shows the defaults: cache.size=2048
  point=NAME     name of the point; default: derived from the overrides
  -m             sweep: values separated by commas make one point each

Keys; docs/configuration.md says more, and what each accepts:"""
HYDRA = "\nHydra shows the groups with their options, and the defaults:"
INFO_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def plan(overrides: list[str], sweep: bool) -> tuple[dict[str, list[str]], set[str]]:
    """The points of all jobs, name -> overrides, and the names of those whose size is to be checked: of the ones that
    have not been built. Raises one UserError with the problems of all jobs."""
    planned: dict[str, list[str]] = {}
    unchecked: set[str] = set()
    known = points.read()
    problems: dict[Problem, None] = {}  # an ordered set: jobs share most of their mistakes
    for job in config.expand(overrides) if sweep else [overrides]:
        try:
            composed = config.compose(job)
            own = points.point_overrides(job)
            name = composed.point or points.name_of(own, known, config.CONF)
            if name in planned and not points.equivalent(planned[name], own):
                what = f"two jobs would both build the point {name}: {' '.join(planned[name])}, and {' '.join(own)}"
                raise UserError(Problem(what, "point", "remove point= from the sweep: each job then gets its own name"))
            built = name in known and points.equivalent(known[name], own) and _report(name, layout.ACCURACY)
            if composed.check_size and not built:
                unchecked.add(name)
            planned[name] = known[name] = own
        except UserError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise UserError(problems)
    return planned, unchecked


def check_sizes(arguments: list[str]) -> None:
    """End with 1 when a job does not fit into this machine's memory or on its disk; what it needs is printed.

    In a process of its own: PyTorch, which finds the sizes, would stay in memory while the stages run.
    """
    done = subprocess.run([sys.executable, "-m", "pipeline.plan", "--check", *arguments])
    if done.returncode:
        sys.exit(done.returncode)


def build(name: str) -> None:
    """Have DVC build a point and wait for it. Raises UserError when a stage fails."""
    here = Path(sys.executable).parent  # DVC runs the `python` of PATH: it must be the one that runs this
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}
    targets = [f"{stage}@{name}" for stage in stages.last()]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *targets]
    # One build at a time, whatever the launcher: a benchmark beside another build measures noise, and when two repros
    # need the same stage DVC fails one of them, even with --wait-for-lock.
    with points.locked("kvforge.lock"):
        _failure_marker(name).touch()
        done = subprocess.run(command, env=environment)
        if done.returncode == 0:
            _failure_marker(name).unlink()
            return
    fix = f"fix what DVC names above, then: dvc repro {' '.join(targets)}"
    raise UserError(Problem(f"the point {name} was not built", str(points.ARTIFACTS / name), fix))


def job(composed: DictConfig) -> None:
    """One job of Hydra's: record the point and build it. A failed job prints its error and does not end the sweep."""
    own = points.point_overrides(HydraConfig.get().overrides.task)
    name = composed.point or points.name_of(own, points.read(), config.CONF)
    points.record(name, own)
    try:
        build(name)
    except UserError as error:
        print(error, file=sys.stderr)


FIGURES = {  # heading: figure of bench.json, or of the engine in accuracy.json, and its form
    "size": ("model_mb", "{:.0f} MB"),
    "prefill": ("prefill_s", "{:.3f} s"),
    "decode": ("decode_tok_s", "{:.1f} tok/s"),
    "perplexity": ("perplexity", "{:.3f}"),
    "mean KL": ("mean_kl", "{:.1e}"),
}


def summary(names: Iterable[str]) -> Iterator[str]:
    """A table of points with the size, speed and quality of each engine, from their reports; below it, what could not
    run on this machine."""
    names = list(names)
    rows = [["point", "", *FIGURES], *map(_row, names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for name in names:
        for artifact, reason in _skipped(name).items():
            yield f"{name}: {artifact} was not run: {reason}"


def _row(name: str) -> list[str]:
    if _failure_marker(name).exists():
        return [name, "FAILED", *["-"] * len(FIGURES)]  # the reports may be of an earlier build
    found = _report(name, layout.BENCH) | _report(name, layout.ACCURACY).get(layout.ENGINE, {})
    state = "not run" if layout.ENGINE in _skipped(name) else "verified"
    return [name, state, *(form.format(found[key]) if key in found else "-" for key, form in FIGURES.values())]


def _skipped(name: str) -> dict[str, str]:
    skipped: dict[str, str] = {} if _failure_marker(name).exists() else _report(name, layout.VERIFY).get("skipped", {})
    return skipped


def _report(name: str, file: str) -> dict[str, Any]:
    path = points.ARTIFACTS / name / file
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return report


def _failure_marker(name: str) -> Path:
    """A file that exists from the start of a build until its success: jobs may run in other processes."""
    return points.SCRATCH / f"{name}.unfinished"


def main() -> None:
    """Check all jobs, have Hydra start them, and print a summary; exit code 1 when a point was not built."""
    flags = {argument.partition("=")[0] for argument in sys.argv[1:] if argument.startswith("-")}
    launch = hydra.main(version_base="1.3", config_path=str(config.CONF.resolve()), config_name=config.MAIN)(job)
    if flags & {"-h", "--help"}:
        print(usage.Parser(main, "", "[group=option | key=value ...] [point=NAME] [-m]", HELP).format_help())
        print(*reference.listing(), HYDRA, sep="\n")
    if flags & INFO_FLAGS:
        launch()
        return
    if flags - SWEEP:
        fix = "remove it: a point consists of conf/ and overrides; -m makes a sweep"
        raise UserError([Problem(f"{flag} cannot be used here", flag, fix) for flag in sorted(flags - SWEEP)])
    planned, unchecked = plan([argument for argument in sys.argv[1:] if not argument.startswith("-")], bool(flags))
    if unchecked:
        check_sizes(sys.argv[1:])
    launch()
    print(*summary(planned), sep="\n")
    if any(_failure_marker(name).exists() for name in planned):
        sys.exit(1)


if __name__ == "__main__":
    errors.run(main)
