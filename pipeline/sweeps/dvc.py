"""Run `dvc repro`, and read from its output what became of each stage, and why.

DVC has no other interface that tells this: its API returns the stages that ran or were restored, and not which. The
lines read here are those of 3.66 and 3.67; tests/sweeps/test_dvc.py reads them from real builds.
"""

import json
import os
import re
import subprocess
import sys
from ast import literal_eval
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pipeline.sweeps.lineage import StageRun

LOCK = Path("dvc.lock")
STARTED = re.compile(r"Running stage '(.+)':")
ENDED = re.compile(r"stage: '(.+)' was reproduced")
RESTORED = re.compile(r"Stage '(.+)' is cached - skipping run")
UNCHANGED = re.compile(r"Stage '(.+)' didn't change, skipping")
CHANGED = re.compile(r"(?:Dependency|Output) '(.+)' of stage: '(.+)' changed because it is '(.+)'\.")
DEBUG = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ ([A-Z]+): ?(.*)")
FAILED = re.compile(r"failed to run: .*, exited with")
SKIPPED = re.compile(r"Stages? .* will be skipped due to this failure")
COST = re.compile(r"(\w+): ([\d.]+) s, peak memory ([\d.]+) GB")  # printed by pipeline.core.stage
PROGRESS = re.compile(r"(?:(.*): +)?(\d+)%\|")  # of tqdm
COLOR = re.compile(r"\x1b\[[0-9;]*[mKA]")
# What DVC says besides, of no interest to who builds points.
CHATTER = re.compile(
    r"> |(?:Generating|Updating) lock file|To track the changes|\tgit add"
    r"|To enable auto staging|\tdvc config core\.autostage|Use `dvc push`"
)
TAIL = 200  # lines of a build's output that are kept


@dataclass
class Progress:
    """What a build is doing, for who watches it. changed: whether a stage of a point has run, failed or come back."""

    started: Callable[[str, str], None] = lambda stage, point: None
    ended: Callable[[str, StageRun], None] = lambda point, run: None
    fraction: Callable[[str, float], None] = lambda label, share: None  # of the stage that is running
    text: Callable[[str], None] = lambda line: None
    changed: bool = False


@dataclass
class Built:
    """What a build did. runs: point -> its stages; the stage toolchain belongs to no point. tail: the last lines of
    its output."""

    runs: dict[str, list[StageRun]] = field(default_factory=dict)
    tail: list[str] = field(default_factory=list)
    problem: str | None = None  # what DVC itself failed at

    def failed(self, point: str) -> StageRun | None:
        """Return the stage of a point that failed, if one did."""
        return next((run for run in self.runs.get(point, ()) if run.outcome == "failed"), None)


def reproduce(
    stages: Sequence[str],
    asked: Iterable[str],
    known: Iterable[str],
    progress: Progress,
    folder: Path = Path(),
    *,
    pull: bool = False,
) -> Built:
    """Have DVC build points up to these stages in a repository, and wait for it. A failed stage stops only those that
    depend on it.

    asked: the points. known: all points of the repository. pull: take from the remote what it has.
    """
    targets = [f"{stage}@{pattern}" for pattern in patterns(asked, known) for stage in stages]
    options = ["-v", "--keep-going", "--glob", *(["--pull"] if pull else [])]
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *options, *targets]
    reader = Reader(progress, _locked_stages(folder))
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as build:
        assert build.stdout
        for line, transient in lines(build.stdout):
            reader.read(line, transient)
    return reader.finish(build.returncode)


def push(folder: Path) -> str | None:
    """Hand a repository's outputs and run cache over to DVC's default remote; return what went wrong, if anything."""
    command = [sys.executable, "-m", "dvc", "push", "--run-cache"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    said = (done.stderr or done.stdout).strip().splitlines()
    return None if done.returncode == 0 else f"dvc push: {said[-1] if said else done.returncode}"


def patterns(asked: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return patterns, as few as names allow, that match these points and no others that are known.

    DVC reads dvc.lock again for each target: for 20 points by their names it takes five times as long as by a pattern.
    """
    left, found = set(asked), []
    others = set(known) - left
    while left:
        name = min(left)
        own = (name[:end] for end in range(len(name) + 1))
        prefix = next((start for start in own if not any(other.startswith(start) for other in others)), None)
        found.append(name if prefix is None else f"{prefix}*")
        left -= {name} if prefix is None else {one for one in left if one.startswith(prefix)}
    return found


def changed(folder: Path = Path()) -> set[str] | None:
    """Return the points that have a stage which DVC would run or restore; None where it cannot tell."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        return None  # the build will say why
    return {_point(stage) for stage in json.loads(done.stdout)} - {""}


def environment() -> dict[str, str]:
    """Return the variables that DVC and its stages run with: the `python` of PATH is the one that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def lines(stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """Read a process's output as it comes: each line, and whether the next overwrites it, as a progress bar does."""
    decoder = getincrementaldecoder("utf-8")("replace")
    rest = ""
    while chunk := os.read(stream.fileno(), 1 << 16):
        *whole, rest = re.split(r"(\r\n|\n|\r)", rest + decoder.decode(chunk))
        for line, end in zip(whole[::2], whole[1::2], strict=True):
            yield line, end == "\r"
        if PROGRESS.match(rest.lstrip()):  # a bar ends where the next one begins
            yield rest, True
    if rest:
        yield rest, False


class Reader:
    """Reads what a build prints, line by line. known: the stages (`wrap@point`) that have been built before."""

    def __init__(self, progress: Progress, known: Iterable[str] = ()) -> None:
        self.progress, self.known = progress, set(known)
        self.built = Built()
        self.running: str | None = None
        self.why: dict[str, tuple[str, ...]] = {}
        self.cost: tuple[float, int] | None = None
        self.said: list[str] = []  # by the stage that is running
        self.error = ""  # of DVC itself

    def read(self, line: str, transient: bool = False) -> None:
        """Read a line; transient: the next one overwrites it."""
        line = COLOR.sub("", line).rstrip()
        if not line.strip():
            return
        if found := PROGRESS.match(line.lstrip()):
            self.progress.fraction(found[1] or "", int(found[2]) / 100)
            return
        if transient:
            return
        level, text = "INFO", line
        if found := DEBUG.match(line):
            level, text = found[1], found[2]
        if level == "DEBUG":
            self._debug(text)
        elif found := STARTED.match(text):
            self._start(found[1])
        elif found := RESTORED.match(text):
            self._end(found[1], StageRun(_name(found[1]), "restored", self._why(found[1])))
        elif found := UNCHANGED.match(text):
            self._end(found[1], StageRun(_name(found[1]), "unchanged"))
        elif self.running and (found := COST.fullmatch(text)) and found[1] == _name(self.running):
            self.cost = float(found[2]), int(float(found[3]) * 2**30)
        elif level == "WARNING" and self.running and FAILED.match(text):
            self._fail(self.running)
        elif level == "WARNING" and SKIPPED.fullmatch(text):
            for stage in re.findall(r"'(.+?)'", text):
                self._end(stage, StageRun(_name(stage), "skipped"))
        elif level == "ERROR":
            self.error = text  # DVC's last word; its traceback follows
        elif level == "INFO" and not self.error and not CHATTER.match(text):
            self.said.append(text)
            self.built.tail = [*self.built.tail[1 - TAIL :], text]
            self.progress.text(text)

    def finish(self, code: int) -> Built:
        """Return what was built, once DVC has ended with `code`."""
        if self.running and code:
            self._fail(self.running)
        if code and not any(run.outcome == "failed" for runs in self.built.runs.values() for run in runs):
            self.built.problem = f"DVC: {self.error or f'it ended with {code}'}"
        return self.built

    def _debug(self, text: str) -> None:
        if found := CHANGED.match(text):
            if found[2] in self.known:
                self.why[found[2]] = (_reason(found[1], found[3]),)
        elif (found := ENDED.match(text)) and found[1] == self.running:
            seconds, peak = self.cost or (None, None)
            self._end(found[1], StageRun(_name(found[1]), "ran", self._why(found[1]), seconds, peak))

    def _start(self, stage: str) -> None:
        self.running, self.cost, self.said = stage, None, []
        self.progress.started(_name(stage), _point(stage))

    def _fail(self, stage: str) -> None:
        errors = [line.removeprefix("error: ") for line in self.said if line.startswith("error: ")]
        error = errors[0] if errors else self.said[-1] if self.said else "it was ended from outside"
        self._end(stage, StageRun(_name(stage), "failed", self._why(stage), error=error))

    def _end(self, stage: str, run: StageRun) -> None:
        self.running = None
        self.built.runs.setdefault(_point(stage), []).append(run)
        self.progress.changed |= run.outcome != "unchanged" and bool(_point(stage))
        self.progress.ended(_point(stage), run)

    def _why(self, stage: str) -> tuple[str, ...]:
        return self.why.get(stage, ()) if stage in self.known else ("first build",)


def _name(stage: str) -> str:
    return stage.partition("@")[0]


def _point(stage: str) -> str:
    return stage.partition("@")[2]


def _reason(path: str, status: str) -> str:
    """Return a reason for people: `cache.size modified` of params.yaml, `onnx modified` of a folder."""
    path = re.sub(r"^artifacts/[^/]+/", "", path)
    if not status.startswith("{"):
        return f"{path} {status}"
    keys: Mapping[str, str] = literal_eval(status)
    exact = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    return f"{path}: {', '.join(f'{key} {keys[key]}' for key in exact)}"


def _locked_stages(folder: Path) -> Iterable[str]:
    """Read the names of the stages from dvc.lock: by their indentation, as YAML of 60 points takes seconds."""
    path = folder / LOCK
    return re.findall(r"^  ([\w@-]+):$", path.read_text(encoding="utf-8"), re.MULTILINE) if path.exists() else ()
