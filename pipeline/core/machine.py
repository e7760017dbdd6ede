"""The processors and the memory that this process may use, and the memory that it has used.

A container or a batch system limits processors and memory by control groups (cgroups, versions 1 and 2). The counts of
processors and the free memory that Python and psutil report are those of the whole machine. Every group above the
process' own counts as well; the lowest limit holds.
"""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

UNLIMITED = 2**60  # bytes; version 1 writes a number of this order where there is no limit
ROOT = Path("/")


def cpu_quota(root: Path = ROOT) -> float | None:
    """The processor time that the control groups allow, in processors, such as 1.5; None for no limit.

    root: the folder that holds proc/ and sys/.
    """
    quotas = []
    for group, version in _groups("cpu", root):
        if version == 2:
            quota, _, period = _read(group / "cpu.max").partition(" ")
        else:
            quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max" and -1 mean no limit
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def cores(root: Path = ROOT) -> int:
    """Physical cores that this process may use; ONNX Runtime by itself takes those of the whole machine.

    Of a quota of 2.5 processors it takes 2, at least 1: threads wait for each other in every product, and one more
    than the quota pays for uses it up early, so that all stand still until the next period (100 ms).
    root: the folder that holds proc/ and sys/, for control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(allowed, psutil.cpu_count(logical=False) or allowed)
    quota = cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))


def memory_limit(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use at most: the machine's, or fewer where a control group limits it."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory(root))])


def memory_available(root: Path = ROOT) -> int:
    """Bytes of memory that this process can still use: the machine's, or fewer where a control group is nearly full."""
    return min([psutil.virtual_memory().available, *(max(limit - used, 0) for limit, used in _memory(root))])


def address_space() -> int | None:
    """Bytes of address space that `ulimit -v` allows this process; None for no limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    return min((limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY), default=None)


def peak_memory(*, children: bool = False) -> int:
    """Bytes of memory that this process held at most; with `children` the largest of it and its ended children."""
    whose = [resource.RUSAGE_SELF, *([resource.RUSAGE_CHILDREN] if children else [])]
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts ru_maxrss in bytes, Linux in KiB
    return max(resource.getrusage(who).ru_maxrss for who in whose) * unit


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """Limit of each group, and what is used of it: without the cached files that the kernel drops when it has to."""
    for group, version in _groups("memory", root):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit, used = _read(group / names[0]), _read(group / names[1])
        if not limit.isdecimal() or int(limit) >= UNLIMITED:
            continue
        stat = dict(line.split() for line in _read(group / "memory.stat").splitlines() if len(line.split()) == 2)
        yield int(limit), max(int(used or 0) - int(stat.get(names[2], 0)), 0)


def _groups(controller: str, root: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process' groups for a controller, its own group first, each with its version of cgroups.

    Inside a container the path in /proc/self/cgroup can be the host's; the container's own group is then the
    mounted root, where the walk ends.
    """
    mounts = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if not names:
            version, tops = 2, [mounts]
        elif controller in names.split(","):
            version, tops = 1, [mounts / names, mounts / controller]
        else:
            continue
        top = next((top for top in tops if top.is_dir()), None)
        inside = PurePosixPath(path.lstrip("/"))
        if top is None:
            continue
        if ".." in inside.parts:  # seen from another namespace: only the root is known
            inside = PurePosixPath()
        for part in (inside, *inside.parents):
            if (top / part).is_dir():
                yield top / part, version
            if part == PurePosixPath():
                break


def _read(path: Path) -> str:
    """A file's text without the last line's end; "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
