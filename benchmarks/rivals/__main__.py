"""Build every causal LM of transformers, tiny and with random weights, with other exporters, and check their tokens.

    .venv-bench/bin/python -m benchmarks.rivals [--types llama,bert] [--again] [--workers 2]

Writes docs/coverage_others.json and .md. A row that is there is left as it is while a tool's version stays.
"""

import argparse
import gc
import os
import re
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from transformers.utils import logging

from benchmarks.coverage.configurations import types
from benchmarks.coverage.workers import Limits, Row, each
from benchmarks.rivals import report
from benchmarks.rivals.models import first_wrong, original, prompts, save
from benchmarks.rivals.tools import TOOLS, Tool

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "coverage_others.json"
LOGS = ROOT / ".bench" / "rivals"
LIMITS = Limits(seconds=300, processor=180, memory=8 * 2**30)
REFUSES = re.compile(r"not (currently )?(supported|implemented|registered)|unsupported|unknown (model|architecture)", re.I)


def attempt(tool: Tool, kind: str) -> Row:
    """Return how a type fares with a tool: right, wrong, not run, refused or crashed, and why."""
    start = time.perf_counter()
    row = {"status": "right", "reason": ""}
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = original(kind)
            save(model, Path(folder) / "checkpoint")
        except Exception as error:  # of a configuration that is not valid, or a model that cannot be saved
            return {"status": "no model", "reason": text(error), "seconds": 0.0}
        try:
            (Path(folder) / "built").mkdir()
            built = tool.build(model, Path(folder) / "checkpoint", Path(folder) / "built")
        except Exception as error:  # whatever a tool raises
            refused = REFUSES.search(str(error)) or isinstance(error, NotImplementedError)
            row = {"status": "refused" if refused else "crashed", "reason": text(error)}
        else:
            try:
                answers = tool.answer(built, prompts())
            except Exception as error:  # of a runtime
                row = {"status": "does not run", "reason": text(error)}
            else:
                if reason := first_wrong(original(kind), prompts(), answers):
                    row = {"status": "wrong", "reason": reason}
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def text(error: BaseException) -> str:
    """An error on one line; its cause where it has one."""
    error = error.__cause__ or error
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main() -> None:
    """Run all tools on all types, and write both files after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__.splitlines()[0])
    parser.add_argument("--types", default="", help="types of transformers, separated by commas; all by default")
    parser.add_argument("--tools", default="", help="tools, separated by commas; all by default")
    parser.add_argument("--again", action="store_true", help="repeat what is there")
    parser.add_argument("--workers", type=int, default=2, help="types that are built at a time")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.nice(10)
    logging.set_verbosity_error()
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    original("llama")
    found: dict[str, Any] = report.read(RESULTS)
    chosen = options.types.split(",") if options.types else types()
    for tool in TOOLS:
        if options.tools and tool.name not in options.tools.split(","):
            continue
        entry = found.setdefault(tool.name, {"types": {}})
        if entry.get("version") != version(tool.distribution):
            entry |= {"version": version(tool.distribution), "types": {}}
        left = [kind for kind in chosen if options.again or kind not in entry["types"]]
        for kind, result in each(left, partial(attempt, tool), options.workers, LIMITS, LOGS / tool.name):
            row = {"status": "crashed", "reason": result} if isinstance(result, str) else result
            entry["types"][kind] = row
            print(f"{tool.name} {kind}: {row['status']} {row['reason'][:150]}", flush=True)
            report.write(RESULTS, found)
        gc.collect()
    report.write(RESULTS, found)


if __name__ == "__main__":
    main()
