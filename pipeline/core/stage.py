"""Run a stage as a command; report its errors, time and peak memory, and note these for pipeline.plan."""

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.core import errors, layout, machine, usage
from pipeline.core.machine import cores
from pipeline.core.tables.dtypes import COMPUTE

SETTINGS = (  # keys that a stage's time depends on, besides the model's size
    "model.source",
    "precision.compute",
    "quantize.weights",
    "quantize.rounding",
    "engine.kind",
    "verify.quality.tokens",
    "bench.new_tokens",
)

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
    seconds = time.perf_counter() - start
    print(f"{name}: {seconds:.1f} s, peak memory {peak / 2**30:.2f} GB")
    with suppress(OSError):  # a folder that cannot be written: the stage has done its work
        note(name, seconds, peak)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def note(name: str, seconds: float, peak: int, point: Path = Path()) -> None:
    """Add a line to artifacts/history.jsonl; nothing where `point` is no folder in artifacts/. peak: bytes."""
    history, program = Path(layout.HISTORY), point / layout.WRAPPED / layout.PROGRAM
    folder = point.resolve().parent
    if folder.name != history.parent.name or not program.exists():
        return
    from omegaconf import OmegaConf  # after the stage has run: most of them have imported it

    params = OmegaConf.load(point / layout.PARAMS)
    settings = {key: OmegaConf.select(params, key) for key in SETTINGS}
    # the weights are all but a hundredth of the program's file
    parameters = program.stat().st_size * 8 // COMPUTE[settings["precision.compute"]].bits
    run = {"stage": name, "point": point.resolve().name, "seconds": round(seconds, 2), "peak": peak}
    run |= {"parameters": parameters, **settings}
    with (folder / history.name).open("a", encoding="utf-8") as file:  # one write, so that stages may end at once
        file.write(json.dumps(run) + "\n")


def _limit_threads() -> None:
    """Limit PyTorch, where the stage has imported it, to the cores of this process. It does not see a container's
    quota, and 64 threads on 2 processors wait for each other most of the time."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
