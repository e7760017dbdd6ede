"""machine on trees of files like the kernel's, as a test cannot set the kernel's own; and on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pipeline.core import machine
from pipeline.core.machine import cores
from tests.support.repository import ROOT

GB = 2**30
V2 = {
    "proc/self/cgroup": "0::/jobs/one",
    "sys/fs/cgroup/jobs/cpu.max": "150000 100000",
    "sys/fs/cgroup/jobs/one/cpu.max": "max 100000",
    "sys/fs/cgroup/jobs/memory.max": "max",
    "sys/fs/cgroup/jobs/one/memory.max": str(GB),
    "sys/fs/cgroup/jobs/one/memory.current": str(GB // 2),
    "sys/fs/cgroup/jobs/one/memory.stat": f"anon 1\ninactive_file {GB // 4}\nfile 2",
}
# version 1 in a container: the path is the host's, the container's own groups are mounted as the root
V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GB),
    "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GB // 2),
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GB // 4}",
}
FREE = {
    "proc/self/cgroup": "2:memory:/\n1:cpu:/\n0::/../other",
    "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
    "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
}


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Write the files below `folder`."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("files", [V2, V1], ids=["version 2", "version 1"])
def test_control_groups_count(tmp_path: Path, files: dict[str, str]) -> None:
    """The lowest limit from the process' own group up to the root; cached files that can be dropped are not in use."""
    root = tree(tmp_path, files)
    assert machine.cpu_quota(root) == 1.5
    assert machine.memory_limit(root) == GB
    assert machine.memory_available(root) == GB * 3 // 4
    assert cores(root) == 1


@pytest.mark.parametrize("files", [FREE, {}], ids=["unlimited", "no control groups"])
def test_without_a_limit_the_machine_counts(tmp_path: Path, files: dict[str, str]) -> None:
    """As before."""
    root = tree(tmp_path, files)
    assert machine.cpu_quota(root) is None
    assert machine.memory_limit(root) == psutil.virtual_memory().total
    assert cores(root) >= 1


@pytest.mark.parametrize(("quota", "threads"), [(10_000, 1), (100_000, 1), (190_000, 1)])
def test_a_quota_is_rounded_down(tmp_path: Path, quota: int, threads: int) -> None:
    """To whole threads, at least one."""
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": f"{quota} 100000"})
    assert machine.cpu_quota(root) == quota / 100_000
    assert cores(root) == threads


def test_a_large_quota_adds_no_threads(tmp_path: Path) -> None:
    """The cores that are there remain the most."""
    root = tree(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100000000 100000"})
    assert cores(root) == cores(tree(tmp_path / "none", {}))


def test_a_group_that_is_full_leaves_nothing(tmp_path: Path) -> None:
    """Not less than nothing."""
    own = "sys/fs/cgroup/memory"
    files = {"proc/self/cgroup": "0::/", f"{own}.max": "1000", f"{own}.current": "4000", f"{own}.stat": ""}
    assert machine.memory_available(tree(tmp_path, files)) == 0


def test_this_machine() -> None:
    """Whatever it is, it has memory; this process has held more than 1 MB and less than all of it."""
    assert 0 < machine.memory_available() <= machine.memory_limit() <= psutil.virtual_memory().total
    assert 2**20 < machine.peak_memory() <= machine.peak_memory(children=True) < 2**45


def test_the_limit_of_the_shell_is_seen() -> None:
    """ulimit -v counts KiB."""
    code = "from pipeline.core import machine; print(machine.address_space())"
    for limit, said in (("4000000", "4096000000"), ("unlimited", "None")):
        shell = f'ulimit -v {limit}; exec "$0" -c "$1"'
        done = subprocess.run(["bash", "-c", shell, sys.executable, code], cwd=ROOT, capture_output=True, text=True)
        if said == "None" and done.stdout.strip() != said:
            pytest.skip("this process has a limit of its own")
        assert done.stdout.strip() == said, done.stderr


def test_threads_follow_the_cores_that_are_allowed() -> None:
    """A process that may use one core gets one thread, whatever the machine has."""
    allowed = sorted(os.sched_getaffinity(0))
    assert 1 <= machine.cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, allowed[:1])
        assert machine.cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
