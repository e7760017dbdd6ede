"""params.yaml: the points that have been asked for, each a name and the Hydra overrides that make it.

Several processes may record points at once (a sweep under a parallel launcher), so writing holds a file lock.
"""

import bisect
import fcntl
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline.core.errors import Problem, UserError
from pipeline.core.files import write_text

FILE = Path("params.yaml")
ARTIFACTS = Path("artifacts")
SCRATCH = Path(".dvc/tmp")  # of DVC, ignored by git
NAME = re.compile(r"[A-Za-z0-9_-]+")  # of a point: to DVC a dot is a level of params.yaml
NOT_OF_A_POINT = ("point", "check_size", "goal")  # keys that do not make one point differ from another
LONGEST = 100  # characters of a derived name; file systems end at 255

Points = Mapping[str, Sequence[str]]


def read() -> dict[str, list[str]]:
    """All points. Raises UserError with every problem of the file."""
    points = _load()[1]["points"]
    return {name: list(overrides) for name, overrides in points.items()}


def record(name: str, overrides: Sequence[str]) -> None:
    """Record a point."""
    record_all({name: overrides})


def record_all(new: Points) -> None:
    """Record points. Comments are kept, and the file is not touched when all are already there."""
    with _document() as points:
        for name, overrides in new.items():
            if name not in points:
                points.insert(bisect.bisect(list(points), name), name, list(overrides))
            elif not equivalent(points[name], overrides):
                points[name] = list(overrides)


def rename(old: str, new: str) -> None:
    """Give a recorded point another name, in its place."""
    with _document() as points:
        points.insert(list(points).index(old), new, points.pop(old))


def drop(names: Iterable[str]) -> None:
    """Remove recorded points."""
    with _document() as points:
        for name in names:
            del points[name]


def name_of(overrides: Sequence[str], points: Points, conf: Path) -> str:
    """The name of the point with these overrides. A new one is named after them: an option by its name, a key as
    key_value; of a name that would be too long the end is a hash of them.

    Raises UserError when that name is taken by other overrides.
    """
    for name in points:
        if equivalent(points[name], overrides):
            return name
    parts = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        parts.append(value if (conf / key).is_dir() else f"{key}_{value}")
    name = "-".join(re.sub(r"[^A-Za-z0-9_-]+", "_", part).strip("_") for part in parts) or "default"
    if len(name) > LONGEST:
        digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
        name = f"{name[: LONGEST - 9].rstrip('-_')}-{digest}"
    if name in points:
        what = f"the point {name} exists, with other overrides: {' '.join(points[name]) or 'none'}"
        fix = f"give this one another name, point=name, or redefine that one with point={name}"
        raise UserError(Problem(what, "point", fix))
    return name


def point_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides that belong to a point: not its name, and nothing about Hydra itself."""
    others = (*(f"{key}{end}" for key in NOT_OF_A_POINT for end in "=."), "hydra.", "hydra/")
    return [text for text in overrides if not text.lstrip("+~").startswith(others)]


def equivalent(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two lists of overrides declare the same point: the order matters only within a section."""

    def ordered(overrides: Sequence[str]) -> list[str]:
        return sorted(overrides, key=lambda text: re.split("[.=]", text.lstrip("+~"))[0])

    return ordered(one) == ordered(other)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold an exclusive lock among all processes that work in this repository. Raises UserError outside of one."""
    _require_file()  # nothing is made in a folder that is not the repository
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with (SCRATCH / name).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _document() -> Iterator[Any]:
    """Read the points, to be changed in place, and write them if they were. Comments are kept."""
    with locked("params.lock"):
        yaml, document = _load()
        before = [(name, list(overrides)) for name, overrides in document["points"].items()]
        yield document["points"]
        if [(name, list(overrides)) for name, overrides in document["points"].items()] != before:
            text = io.StringIO()
            yaml.dump(document, text)
            write_text(FILE, text.getvalue())


def _require_file() -> None:
    """Raise UserError in a folder without params.yaml."""
    if not FILE.exists():
        raise UserError(Problem(f"there is no {FILE}", str(FILE), "run from the root of the repository"))


def _load() -> tuple[YAML, Any]:
    yaml = YAML()  # keeps comments
    yaml.width = 10_000  # a long override stays on its line
    _require_file()
    try:
        document = yaml.load(FILE)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(Problem(f"this is not YAML: {error.problem}", f"{FILE}:{line}", "correct that line")) from error
    points = document.get("points") if isinstance(document, dict) else None
    if not isinstance(points, dict):
        raise UserError(Problem("points is not a mapping", str(FILE), "write points: {name: [overrides]}"))
    problems = []
    for name, overrides in points.items():
        where = f"{FILE}: points.{name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            problems.append(Problem(f"a point cannot be called {name!r}", where, "use letters, digits, _ and -"))
        if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
            problems.append(Problem(f"the overrides of {name} are not a list of texts", where, f"{name}: [key=value]"))
    if problems:
        raise UserError(problems)
    return yaml, document
