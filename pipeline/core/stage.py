"""Run a stage as a command; report its errors, time and peak memory."""

import logging
import os
import sys
import time
from collections.abc import Callable

from pipeline.core import errors, machine, usage
from pipeline.core.machine import cores

HOW = """\
It takes no arguments. It runs in a point's folder, artifacts/<point>, on what the stages before it have written, and
reads its options from params.yaml there. DVC runs it with all that it needs: dvc repro {name}@<point>"""


def run(name: str, main: Callable[[], None]) -> None:
    """Run `main` as `errors.run` does, print the stage's time and peak memory, subprocesses included, and end the
    process; or print --help.

    It ends by os._exit, once output and logs are flushed: everything is on disk, and taking torch and its graphs apart,
    object by object, costs 0.7 to 1.2 s. So after `run` nothing is executed: no `finally`, no function of atexit, no
    finalizer of an object, and no thread is waited for. A stage that fails ends as Python does.
    """
    call = f"python -m pipeline.{name}"
    if usage.asked():
        print(usage.text(main, call, HOW.format(name=name)))
        return

    def checked() -> None:
        usage.no_arguments(f"remove it: {call} takes none; its options are in params.yaml")
        main()

    start = time.perf_counter()
    _limit_threads()
    errors.run(checked)
    peak = machine.peak_memory(children=True)
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak memory {peak / 2**30:.2f} GB")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _limit_threads() -> None:
    """Keep PyTorch, where the stage has imported it, to the cores of this process: it does not see a container's
    quota, and 64 threads on 2 processors wait for each other most of the time."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
