"""Build every causal LM of transformers, tiny and with random weights, with other exporters, and check their tokens.

    .venv-bench/bin/python -m benchmarks.rivals [--types llama,bert] [--again] [--workers 2]

Writes docs/coverage_others.json and .md. A row that is there is left as it is while the tool's version stays.
"""

import argparse
import os
import random
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.coverage.configurations import types
from benchmarks.coverage.workers import Limits, each
from benchmarks.rivals import report, tools
from benchmarks.rivals.attempt import attempt
from benchmarks.rivals.models import original, save

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "coverage_others.json"
LOGS = ROOT / ".bench" / "rivals"
LIMITS = Limits(seconds=600, processor=report.PROCESSOR_SECONDS, memory=report.GIGABYTES * 2**30)


def warm_up(tool: tools.Tool) -> None:
    """Import and run, once for all types, what each would otherwise import for itself."""
    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        model = original("llama")
        save(model, Path(folder) / "checkpoint")
        next(iter(tool.ways.values()))(model, Path(folder) / "checkpoint", Path(folder))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals", description=__doc__.splitlines()[0])
    parser.add_argument("--types", default="", help="types of transformers, separated by commas; all by default")
    parser.add_argument("--tools", default=",".join(tools.NAMES), help="tools, separated by commas; all by default")
    parser.add_argument("--again", action="store_true", help="repeat what is there")
    parser.add_argument("--workers", type=int, default=2, help="types that are built at a time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    logging.set_verbosity_error()  # it warns of defaults that contradict each other
    known = types()
    chosen = options.types.split(",") if options.types else list(known)
    if unknown := set(chosen) - set(known):
        parser.error(f"transformers has no causal LM {', '.join(sorted(unknown))}")
    random.Random(0).shuffle(chosen)  # noqa: S311  # a run that is cut short has a fair sample
    found = report.read(options.results)
    for name in options.tools.split(","):
        tool = tools.load(name)
        entry = found.setdefault(name, {"types": {}})
        if entry.get("version") != version(tool.distribution):
            entry |= {"version": version(tool.distribution), "types": {}}
        left = [kind for kind in chosen if options.again or kind not in entry["types"]]
        if left:
            warm_up(tool)
        results = each(left, partial(attempt, name), options.workers, LIMITS, LOGS / name)
        for count, (kind, result) in enumerate(results, 1):
            entry["types"][kind] = row = report.crashed(result) if isinstance(result, str) else result
            line = f"{row['status']} {row['reason'][:150]} ({row['seconds']} s)"
            print(f"{name} {count}/{len(left)} {kind}: {line}", flush=True)
            report.write(options.results, found, len(known))
    report.write(options.results, found, len(known))


if __name__ == "__main__":
    main()
