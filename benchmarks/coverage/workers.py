"""Run a function on many names, each in a process of its own that is forked from this one, within limits.

What this process has imported, the others need not import again. A process that crashes, hangs or takes too much memory
costs its own result only.
"""

import gc
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one name may take: seconds, seconds of a processor, which a busy machine stretches, and bytes of address
    space beyond those of this process."""

    seconds: float
    processor: int
    memory: int


def each(
    names: Sequence[str], function: Callable[[str], Row], workers: int, limits: Limits, logs: Path
) -> Iterator[tuple[str, Row | str]]:
    """Yield each name with its result, or with the reason why there is none, as they come.

    Output goes to `logs`/NAME.log, results through `logs`/NAME.json.
    """
    context = multiprocessing.get_context("fork")
    gc.freeze()  # so that collecting garbage does not copy this process's memory in each of the others
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(names), dict[str, tuple[ForkProcess, float]]()
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.pop(0)
            (logs / f"{name}.json").unlink(missing_ok=True)
            process = context.Process(target=_run, args=(name, function, limits, logs))
            process.start()
            running[name] = process, time.monotonic()
        for name, (process, start) in list(running.items()):
            process.join(0.05)
            late = time.monotonic() - start > limits.seconds
            if process.is_alive() and not late:
                continue
            if process.is_alive():
                os.killpg(process.pid or 0, signal.SIGKILL)  # with the processes that it has started
                process.join()
            del running[name]
            result = logs / f"{name}.json"
            if late:
                yield name, f"took longer than {limits.seconds:g} s"
            elif not result.exists():
                yield name, f"its process ended with {process.exitcode}"
            else:
                yield name, json.loads(result.read_text(encoding="utf-8"))


def _run(name: str, function: Callable[[str], Row], limits: Limits, logs: Path) -> None:
    """Run in the new process."""
    os.setpgid(0, 0)
    with (logs / f"{name}.log").open("wb", buffering=0) as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + limits.memory, used + limits.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor, limits.processor))
    row = function(name)
    (logs / f"{name}.json").write_text(json.dumps(row), encoding="utf-8")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without the cleanup of what this process shares with the other
