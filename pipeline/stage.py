"""Run a stage as a command: its errors for people, and what it cost."""

import os
import resource
import sys
import time
from collections.abc import Callable

from pipeline import errors


def run(name: str, main: Callable[[], None]) -> None:
    """Run `main` as `errors.run` does, print the stage's time and its peak memory, subprocesses included, and end the
    process."""
    start = time.perf_counter()
    errors.run(main)
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak memory {peak / 2**20:.2f} GB")  # ru_maxrss is in KiB
    sys.stdout.flush()
    os._exit(0)  # everything is on disk; to take torch and its graphs apart, object by object, costs 0.7 to 1.2 s
