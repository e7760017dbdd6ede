"""Cores of this machine for each of the jobs that run on it side by side.

Two builds that share two cores wait in each other's spin locks, and each takes twice as long as with one core of its
own. Libraries count the cores that a process may run on, so that a job's stages start as many threads.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def own_cores(count: int, folder: Path) -> Iterator[None]:
    """Keep this process, and what it starts, to `count` cores that no other job has; to those it has where all are
    taken.

    folder: where the jobs of this machine note, by locks on files, which cores are taken.
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
