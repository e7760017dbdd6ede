"""How many threads compute: one a core."""

import os

import psutil


def cores() -> int:
    """Physical cores that this process may use; ONNX Runtime by itself takes those of the whole machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)
