"""Repositories for tests, each in a folder of the test's own.

`make`: conf/ and params.yaml, enough to compose points. `make_whole`: a copy of the project in which DVC and the
front door run for real, as processes; `built` is one with the tiny point built, made once for all tests.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.tables import stages
from tests.support import common

ROOT = Path(__file__).parents[2]
PARAMS = "# what has been asked for\npoints:\n  smollm2: []\n"
TINY = "points:\n  tiny: [experiment=tiny]\n"
STAGES = stages.NAMES
COPIED = (".dvcignore", ".gitignore", ".dvc/.gitignore", ".dvc/config", "dvc.yaml", "conf", "pipeline")


def make(folder: Path) -> Path:
    """Fill `folder`."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    (folder / "params.yaml").write_text(PARAMS)
    return folder


def make_whole(folder: Path, params: str = TINY) -> Path:
    """Make `folder` a git repository with all that a build needs, and these points."""
    (folder / ".dvc").mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, folder / name)
    (folder / "params.yaml").write_text(params)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Variables of a user's shell in `folder`: this interpreter comes first, DVC's settings are its own."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    own = folder / ".dvc/tmp"
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(own / "site"),
        "DVC_GLOBAL_CONFIG_DIR": str(own / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(own / "system"),
        **more,
    }


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`, with `more` environment variables."""
    return subprocess.run(command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True)


@dataclass(frozen=True)
class Build:
    """What became of each stage (`wrap@tiny`): it ran, came back from DVC's run cache, or was up to date."""

    ran: list[str]
    restored: list[str]
    unchanged: list[str]

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> "Build":
        """Out of what DVC printed. Fails when the build did."""
        assert done.returncode == 0, done.stdout + done.stderr
        lines = (r"Running stage '(.+)':", r"Stage '(.+)' is cached - skipping run", r"Stage '(.+)' didn't change")
        return cls(*(sorted(re.findall(line, done.stdout), key=_order) for line in lines))


def _order(stage: str) -> tuple[str, int]:
    name, _, point = stage.partition("@")
    return point, STAGES.index(name)


def repro(folder: Path, *targets: str, **more: str) -> Build:
    """Run `dvc repro`. With no targets, each stage of each point must be accounted for."""
    build = Build.of(run(folder, "dvc", "repro", *targets, **more))
    if not targets:
        points = yaml.safe_load((folder / "params.yaml").read_text())["points"]
        expected = ["toolchain", *(f"{stage}@{point}" for point in points for stage in STAGES[1:])]
        assert sorted(build.ran + build.restored + build.unchanged) == sorted(expected)
    return build


def of_tiny(stages: list[str]) -> list[str]:
    """Names without their point, which must be `tiny`."""
    return [stage.removesuffix("@tiny") for stage in stages]


def edit(folder: Path, file: str, old: str, new: str) -> None:
    """Change a text file as in an editor."""
    path = folder / file
    text = path.read_text()
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new))


def override(folder: Path, *overrides: str) -> None:
    """Give the tiny point these overrides besides its own, and no others."""
    (folder / "params.yaml").write_text(TINY.replace("]", "".join(f", '{text}'" for text in overrides) + "]"))


def locked(folder: Path) -> dict[str, Any]:
    """What DVC knows about the last build: the hashes of all that went in and came out."""
    lock: dict[str, Any] = yaml.safe_load((folder / "dvc.lock").read_text())
    return lock


@dataclass(frozen=True)
class Built:
    """A repository with the tiny point built in two steps. It must not be changed: work in a copy."""

    folder: Path
    engine: Build  # dvc repro engine@tiny
    rest: Build  # dvc repro

    def copy(self, folder: Path) -> Path:
        """Copy it to `folder`, without what belongs to its place."""
        return Path(shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("tmp")))


@functools.cache
def built() -> Built:
    """Build the tiny point once for all tests and workers."""
    with common.once("repository") as (folder, made):
        report = folder / ".dvc/tmp/builds.json"
        if not made:
            make_whole(folder)
            builds = [repro(folder, "engine@tiny"), repro(folder)]
            report.write_text(json.dumps([asdict(build) for build in builds]))
        return Built(folder, *(Build(**build) for build in json.loads(report.read_text())))
