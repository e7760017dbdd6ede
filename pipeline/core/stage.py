"""Run a stage as a command; report its errors, time and peak memory."""

import gc
import logging
import os
import sys
import time
from collections.abc import Callable

from pipeline.core import errors, machine, usage
from pipeline.core.machine import cores

HOW = """\
It runs in a point's folder, artifacts/<point>, on the outputs of the stages before it, and reads its options from
params.yaml there. DVC runs it with everything it needs: dvc repro {name}@<point>"""


def run(name: str, main: Callable[[], None]) -> None:
    """Run `main` as `errors.run` does, print the stage's time and peak memory, subprocesses included, and end the
    process; or print --help.

    It ends by os._exit, once output and logs are flushed. Everything is on disk, and freeing torch and its graphs,
    object by object, takes 0.7 to 1.2 s. So after `run` nothing is executed: no `finally`, no atexit function, no
    finalizer of an object, and no thread is waited for. A stage that fails ends as Python does.
    """

    def checked() -> None:
        usage.no_arguments(main, name, HOW.format(name=name), "; its options are in params.yaml")
        main()

    start = time.perf_counter()
    gc.disable()  # most objects stay until the end; searching them for cycles takes 2 of wrap's 16 s, 1 of export's 7
    _limit_threads()
    errors.run(checked)
    peak = machine.peak_memory(children=True)
    print(f"{name}: {time.perf_counter() - start:.1f} s, peak memory {peak / 2**30:.2f} GB")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _limit_threads() -> None:
    """Limit PyTorch, where the stage has imported it, to the cores of this process. It does not see a container's
    quota, and 64 threads on 2 processors wait for each other most of the time."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
