"""How many threads compute."""

import os

from pipeline.cores import cores


def test_threads_follow_the_cores_that_are_allowed() -> None:
    """A process that may use one core gets one thread, whatever the machine has."""
    allowed = sorted(os.sched_getaffinity(0))
    assert 1 <= cores() <= len(allowed)
    try:
        os.sched_setaffinity(0, allowed[:1])
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
