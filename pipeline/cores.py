"""How many threads compute: one a core."""

import os
from pathlib import Path

import psutil

from pipeline import machine


def cores(root: Path = machine.ROOT) -> int:
    """Physical cores that this process may use; ONNX Runtime by itself takes those of the whole machine.

    Of a quota of 2.5 processors it takes 2, at least 1: threads wait for each other in every product, and one more
    than the quota pays for uses it up early, so that all stand still until the next period (100 ms).
    root: the folder that holds proc/ and sys/, for control groups.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(allowed, psutil.cpu_count(logical=False) or allowed)
    quota = machine.cpu_quota(root)
    return count if quota is None else max(1, min(count, int(quota)))
