"""A cache in fp32, in 8 bits and in 4 bits: the time of a decode step and perplexity, beside other systems' 8 bits.

    python -m pipeline -m experiment=long_context cache.size=32768 wrap.logits=all cache.dtype=auto,int8,int4
    .venv-bench/bin/python -m benchmarks.cache POINT POINT POINT

Each system is a process of its own on one thread, held still while others compute, and its processor time counts, which
other processes disturb least. Steps are timed in turn after several numbers of tokens, over caches of made-up content.
The text is read whole. Writes cache.md.
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import convert, text
from benchmarks.fleet import Worker
from benchmarks.systems import OURS, PEERS
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.runtime import engine_info

ARTIFACTS, SCRATCH = Path("artifacts"), Path(".bench")
OUT = Path(__file__).parent / "cache.md"
DEPTHS = (1024, 8192, 32768)  # used slots, the new token's included
TOGETHER = 8192  # used slots up to which the caches of all systems are in memory at once; beyond, those of one system
ROUNDS, STEPS = 5, 8  # steps are timed in so many turns of so many steps
CHUNK = 512  # tokens of the text that are read at once
BITS = {"float32": "fp32", "int8": "8 bits", "uint8": "4 bits"}
# caches of the peers' fp32 models, the one to compare with first: options, and what the table calls them
CACHES = {"llamacpp": {"F16": "fp16", "Q8_0": "Q8_0"}, "openvino": {"f32": "fp32", "u8": "u8"}}
Row = dict[str, Any]  # system, cache; then what was measured


def contract_of(point: str) -> GraphContract:
    """The contract of a point's engine."""
    return engine_info.read(ARTIFACTS / point / layout.ENGINE).contract


def workers(points: list[str], tokens: Path, source: Path) -> list[tuple[Row, Worker]]:
    """The systems, loaded, with the beginning of each one's row. What does not load is told and left out."""
    requests: list[tuple[Row, Row]] = []
    for name in points:
        folder = ARTIFACTS / name / layout.ENGINE
        row = {"system": OURS, "cache": BITS[contract_of(name).caches[0].dtype]}
        requests.append((row, {"module": OURS, "folder": str(folder), "options": {"threads": 1}}))
    for module, caches in CACHES.items():
        system = next(peer for peer in PEERS if (peer.module, peer.precision) == (module, "fp32"))
        folder, _, why = convert.converted(system, source, SCRATCH)
        if why:
            print(f"no rows for {system.name}: {why}", file=sys.stderr)
            continue
        for option, called in caches.items():
            options = system.options | {"cache": option}
            row = {"system": system.name, "cache": called}
            requests.append((row, {"module": module, "folder": str(folder), "options": options}))
    found = []
    for number, (row, request) in enumerate(requests):
        worker = Worker(request | {"threads": 1, "tokens": str(tokens)}, SCRATCH / "logs" / f"cache{number}.run")
        if "why" in worker.ready:
            print(f"no row for {row['system']}, {row['cache']}: {worker.ready['why']}", file=sys.stderr)
        else:
            found.append((row | {"version": worker.ready["version"]}, worker))
    return found


def by_system(systems: list[tuple[Row, Worker]]) -> list[list[tuple[Row, Worker]]]:
    """Those of one system together."""
    return [list(group) for _, group in itertools.groupby(systems, lambda one: str(one[0]["system"]))]


def steps(systems: list[tuple[Row, Worker]], used: int) -> None:
    """Add to each row the milliseconds of a step of one token up to which `used` slots are in use, median."""
    able = []
    count = ROUNDS * (STEPS + 1)
    for row, worker in systems:
        filled = worker.ask({"do": "fill", "used": used - count, "slots": used})
        if "why" in filled:
            print(f"{row['system']}, {row['cache']}, {used} slots: {filled['why']}", file=sys.stderr)
        else:
            able.append((row, worker))
            row["bytes"] = filled["bytes"]
    seconds: dict[int, list[float]] = {}
    for _, (number, (row, worker)) in itertools.product(range(ROUNDS), enumerate(able)):
        answer = worker.ask({"do": "steps", "count": STEPS + 1})
        if "why" in answer:
            print(f"{row['system']}, {row['cache']}, {used} slots: {answer['why']}", file=sys.stderr)
        else:  # the first one reads weights and cache from afar
            seconds.setdefault(number, []).extend(answer["steps_s"][1:])
    for number, (row, worker) in enumerate(able):
        if number in seconds:
            row[f"ms{used}"] = median(seconds[number]) * 1e3
        worker.ask({"do": "end"})


def increase(values: list[float], others: list[float]) -> tuple[float, float]:
    """The relative increase of perplexity from one list of log-likelihoods to another, and its standard error."""
    differences = np.array(values) - np.array(others)
    return math.expm1(differences.mean()), float(differences.std() / math.sqrt(len(differences)))


def table(rows: list[Row], depths: list[int]) -> str:
    """One line for each system and cache; ratios are to the first cache of the same system."""
    columns = "".join(f" {used:,} used: ms | faster |" for used in depths)
    made = f"| system | cache | bytes of a token |{columns} perplexity | increase |\n"
    made += f"|:--|:--|--:|{'--:|--:|' * len(depths)}--:|--:|\n"
    for row in rows:
        first = next(other for other in rows if other["system"] == row["system"])
        cells = ""
        for used in depths:
            own, base = row.get(f"ms{used}"), first.get(f"ms{used}")
            cells += f" {own:.1f} |" if own else " |"
            cells += f" {base / own:.2f} |" if own and base else " |"
        if "nlls" in row:
            cells += f" {math.exp(np.mean(row['nlls'])):.3f} |"
        else:
            cells += " |"
        if "nlls" in row and "nlls" in first and row is not first:
            more, error = increase(row["nlls"], first["nlls"])
            cells += f" {more:+.2%} ± {error:.2%} |"
        else:
            cells += " |"
        bytes_ = f" {row['bytes']:,.0f}" if row.get("bytes") else ""
        made += f"| {row['system']} | {row['cache']} |{bytes_} |{cells}\n"
    return made


def page(rows: list[Row], depths: list[int], command: str, tokens: int) -> str:
    """The whole page; tokens: of the text."""
    versions = "; ".join(sorted({f"{row['system']}: {row['version']}" for row in rows}))
    return f"""# Quantized caches

{table(rows, depths)}
* `{command}`, on a machine that was busy with other work.
* Milliseconds of processor time of a process on one thread, one row and one token; medians of {ROUNDS * STEPS} steps
  in turn: up to {TOGETHER:,} slots those of all lines, beyond those of one system. Weights are in fp32. `faster`:
  than the first cache of the same system.
* Perplexity over a text of {tokens:,} tokens that is read whole, in chunks of {CHUNK}; its increase over the first
  cache of the same system, with the standard error of that difference.
* OpenVINO attends to the first chunk before it is rounded. Its bytes in u8 are a head's numbers and their scale and
  offset in fp32. Its default is u8, llama.cpp's is fp16; Q8_0 has a scale for each 32 channels of a token.
* {versions}.
"""


def main() -> None:
    """Measure the points on the command line, and the peers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cache", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", nargs="+", help="names in artifacts/, the one to compare with first")
    names = parser.parse_args().points
    (SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    source = convert.checkpoint(SCRATCH)
    tokens = SCRATCH / text.FILE
    if not tokens.exists():
        text.write_tokens(source, tokens)
    depths = [used for used in DEPTHS if used <= min(contract_of(name).cache_size for name in names)]
    systems = workers(names, tokens, source)
    rows = [row for row, _ in systems]
    command = f"python -m benchmarks.cache {' '.join(names)}"
    count = len(json.loads(tokens.read_text(encoding="utf-8")))
    try:
        for used in depths:
            for group in [systems] if used <= TOGETHER else by_system(systems):
                steps(group, used)
        for row, worker in systems:
            OUT.write_text(page(rows, depths, command, count), encoding="utf-8")  # reading takes minutes each
            answer = worker.ask({"do": "read", "chunk": CHUNK})
            row |= {"nlls": answer["nlls"]} if "nlls" in answer else {}
            print(row["system"], row["cache"], answer.get("why", "read"), file=sys.stderr)
            worker.close()
    finally:
        for _, worker in systems:
            worker.close()
    OUT.write_text(page(rows, depths, command, count), encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
