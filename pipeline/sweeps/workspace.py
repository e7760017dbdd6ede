"""What a job has to itself: a folder, with a copy of the code and the configuration and one point, and some cores.

DVC builds one point at a time in a repository; in folders of their own several build side by side. They share DVC's
cache, run cache included, through which the repository gets what they built.
"""

import configparser
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

FOLDER = Path(".dvc/tmp/points")  # in the repository, ignored by git
COPIED = ("conf", "pipeline", "dvc.yaml", ".dvcignore")  # so that an edit while the jobs run changes none of them
OWN = {*COPIED, ".dvc", ".git", ".gitignore", "artifacts", "params.yaml", "dvc.lock"}


@contextmanager
def workspace(root: Path, point: str, overrides: Sequence[str]) -> Iterator[Path]:
    """Make the folder and remove it at the end; wait for another job that builds the same point in the repository.

    root: the repository. What is neither code nor DVC's, such as folders of models, is linked, so that relative paths
    of a configuration hold.
    """
    parent = root.resolve() / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / f"{point}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = parent / point
        shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
        try:
            _fill(folder, root.resolve(), point, overrides)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_cores(count: int, folder: Path) -> Iterator[None]:
    """Keep this process, and what it starts, to `count` cores that no other job has; to those it has where all are
    taken.

    folder: where the jobs of this machine note, by locks on files, which cores are taken. Two builds that share two
    cores wait in each other's spin locks, and each takes twice as long as with one core of its own.
    """
    if not hasattr(os, "sched_setaffinity"):  # not on Linux
        yield
        return
    before = os.sched_getaffinity(0)
    cores = sorted(before)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for slot in range(len(cores) // count):
            lock = stack.enter_context((folder / f"cores{slot}").open("wb"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            os.sched_setaffinity(0, cores[slot * count : (slot + 1) * count])
            break
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def remove_leftovers(root: Path) -> None:
    """Remove the folders of jobs that were killed."""
    for lock in (root / FOLDER).glob("*.lock"):
        with lock.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # that job runs
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()


def cache_folder(root: Path) -> Path:
    """Return the folder of DVC's cache."""
    config = _config(root)
    return Path(config.get("cache", "dir", fallback=str(root.resolve() / ".dvc/cache")))


def default_remote(root: Path) -> str | None:
    """Return the name of DVC's default remote, if one is set."""
    return _config(root).get("core", "remote", fallback=None)


def _fill(folder: Path, root: Path, point: str, overrides: Sequence[str]) -> None:
    (folder / ".dvc").mkdir(parents=True)
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copyfile(source, folder / name)
    for entry in root.iterdir():
        if entry.name not in OWN:
            (folder / entry.name).symlink_to(entry)
    points = {"points": {point: list(overrides)}}
    (folder / "params.yaml").write_text(yaml.safe_dump(points, allow_unicode=True), encoding="utf-8")
    config = _config(root)
    for section, values in {
        "core": {"no_scm": "true", "analytics": "false", "site_cache_dir": str(folder / ".dvc/tmp/site")},
        "cache": {"dir": str(cache_folder(root))},
    }.items():
        if not config.has_section(section):
            config.add_section(section)
        config[section].update(values)
    with (folder / ".dvc/config").open("w", encoding="utf-8") as file:
        config.write(file)


def _config(root: Path) -> configparser.RawConfigParser:
    """Read DVC's settings of a repository, those of this machine last; relative paths in them become absolute."""
    config = configparser.RawConfigParser()
    folder = root.resolve() / ".dvc"
    config.read([folder / "config", folder / "config.local"], encoding="utf-8")
    for section in config.sections():
        key = "dir" if section == "cache" else "url"
        value = config.get(section, key, fallback=None)
        if value and "://" not in value:
            config[section][key] = os.path.normpath(folder / value)
    return config
