"""Cores that jobs do not share."""

import fcntl
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.sweeps.slots import own_cores
from tests.support.repository import ROOT

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@pytest.mark.skipif(not CORES, reason="processes are kept to cores on Linux only")
def test_a_job_has_its_cores_and_gives_them_back(tmp_path: Path) -> None:
    """One job has the first core, the next one another, if there is one; afterwards all are free again."""
    with own_cores(1, tmp_path):
        assert sorted(os.sched_getaffinity(0)) == CORES[:1]
    assert sorted(os.sched_getaffinity(0)) == CORES
    with own_cores(len(CORES), tmp_path):
        assert sorted(os.sched_getaffinity(0)) == CORES


@pytest.mark.skipif(not CORES, reason="processes are kept to cores on Linux only")
def test_where_all_are_taken_a_job_keeps_what_it_has(tmp_path: Path) -> None:
    """As when jobs of a killed sweep still run."""
    code = (
        "import os, pathlib, sys; from pipeline.sweeps.slots import own_cores\n"
        "with own_cores(1, pathlib.Path(sys.argv[1])): print(len(os.sched_getaffinity(0)))"
    )
    with ExitStack() as taken:
        for slot in range(len(CORES)):
            lock = taken.enter_context((tmp_path / f"cores{slot}").open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(CORES)
