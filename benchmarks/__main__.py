"""Measure, and write results.json, results.md and the plots: see `make bench`.

python -m benchmarks [--systems "kvforge,llama.cpp"] [--cases smoke|quick|full|caches] [--rounds 3] [--engines FOLDERS]
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import convert, machine, plots, points, report, text
from benchmarks.cases import SETS, Case, interleaved, warmup
from benchmarks.fleet import Worker
from benchmarks.systems import OURS, PEERS, System, chosen, engine
from pipeline.core.files import write_json
from pipeline.core.machine import cores

HERE = Path(__file__).parent
SCRATCH = Path(".bench")
PERPLEXITIES = "perplexity.json"
UNFINISHED = "unfinished.json"  # the cases that a run has finished, until all are
REFERENCE = "pytorch fp32"  # whose tokens the others' are compared with


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default="", help="names, or names with precisions, with commas; default: all")
    parser.add_argument("--cases", default="quick", choices=SETS)
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is run in each system")
    parser.add_argument("--engines", default="", help="engine folders, with commas; default: artifacts/*/engine")
    parser.add_argument("--out", type=Path, default=HERE, help="where results go")
    return parser.parse_args(arguments)


class Bench:
    """The systems of one run with their workers, and what is known of each. `whys`: system -> why it is missing."""

    def __init__(self, systems: Sequence[System], tokens: Path, threads: int) -> None:
        self.systems = {str(system): system for system in systems}
        self.tokens = tokens
        self.threads = threads
        self.workers: dict[str, Worker] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.whys: dict[str, str] = {}

    def start(self, source: Path) -> None:
        """Convert what needs it, then load all systems, one after the other."""
        for name, system in self.systems.items():
            folder, seconds, why = convert.converted(system, source, SCRATCH)
            self.facts[name] = {"build_s": seconds, "folder": folder}
            if why:
                self.whys[name] = why
        for name, system in self.systems.items():
            if name in self.whys:
                continue
            folder = self.facts[name]["folder"]
            request: dict[str, Any] = {"module": system.module, "folder": str(folder), "options": system.options}
            request |= {"threads": self.threads, "tokens": str(self.tokens)}
            worker = Worker(request, SCRATCH / "logs" / f"{system.slug}.run")
            if "why" in worker.ready:
                self.whys[name] = worker.ready["why"]
            else:
                self.workers[name] = worker
                size = sum(file.stat().st_size for file in convert.model_files(folder))
                self.facts[name] |= worker.ready | {"model_mb": round(size / 2**20, 1)}
                self.facts[name]["identity"] = self._identity(name)

    def measure(self, cases: Sequence[Case], rounds: int) -> list[report.Row]:
        """A row for each system and case. Finished cases are kept in a file until all are: a run that was stopped,
        and starts again with the same systems, goes on."""
        rows = []
        store = SCRATCH / UNFINISHED
        finished = json.loads(store.read_text()) if store.exists() else {}
        for number, case in enumerate(cases):
            able = [name for name in self.workers if self.systems[name].takes(case)]
            key = f"{case}, {rounds} rounds: {', '.join(self.facts[name]['identity'] for name in able)}"
            if key not in finished:
                print(f"case {number + 1} of {len(cases)}: {case}", file=sys.stderr)
                finished[key] = self._measured(case, rounds, able)
                write_json(store, finished)
            rows += finished[key]
        return rows + [self._row(name, None) | {"why": why} for name, why in self.whys.items()]

    def _measured(self, case: Case, rounds: int, able: Sequence[str]) -> list[report.Row]:
        """One case, round robin, the memory's bandwidth in front of each round; a row for each of the systems `able`
        to run it."""
        answers: dict[str, list[dict[str, Any]]] = defaultdict(list)
        whys = {}
        for name in able:
            first = self.workers[name].ask({"do": "case", **vars(warmup(case))})
            if "why" in first:
                whys[name] = first["why"]
        read: list[float] = []  # bytes a second, by round
        for turn, name in interleaved([name for name in able if name not in whys], min(rounds, case.rounds)):
            if turn == len(read):
                read.append(machine.bandwidth(self.threads))
            answer = self.workers[name].ask({"do": "case", **vars(case)})
            if "why" in answer:
                whys[name] = answer["why"]
            else:
                answers[name].append(answer)
        bandwidth = median(read) if read else 0
        print(f"memory read at {bandwidth / 1e9:.1f} GB/s", file=sys.stderr)
        rows = []
        for name in able:
            row = self._row(name, case)
            if answers[name]:
                row["read_gb_s"] = round(bandwidth / 1e9, 1)
                row |= report.speeds(answers[name], case.batch)
                row["share_of_bandwidth"] = report.share(self.facts[name].get("weight_bytes"), row, bandwidth)
                if answers[REFERENCE]:
                    chosen = answers[name][0]["tokens"], answers[REFERENCE][0]["tokens"]
                    row["same_tokens"] = report.common_start(*chosen)
            row["why"] = whys.get(name)
            rows.append(row)
        return rows

    def memory(self) -> None:
        """What a session of each of this project's engines holds when its cache is full, and what of that is neither
        weights nor cache."""
        for name, worker in self.workers.items():
            system, facts = self.systems[name], self.facts[name]
            if system.name == OURS:
                answer = worker.ask({"do": "memory", "cache": system.cache})
                if "why" in answer:
                    print(f"no memory of {name}: {answer['why']}", file=sys.stderr)
                    continue
                held = round(answer["session_mb"], 1)
                facts |= {"session_mb": held, "cache_mb": round(system.cache_mb, 1)}
                facts["overhead_mb"] = round(held - facts["model_mb"] - system.cache_mb, 1)

    def perplexities(self, measure: bool) -> dict[str, float]:
        """Of each system; what is known from an earlier run of the same version and model is not measured again,
        and what is not is measured only if asked."""
        store = SCRATCH / PERPLEXITIES
        known = json.loads(store.read_text()) if store.exists() else {}
        found: dict[str, float] = {}
        for name, worker in self.workers.items():
            key = self.facts[name]["identity"]
            if key not in known and measure:
                print(f"perplexity of {name}", file=sys.stderr)
                answer = worker.ask({"do": "perplexity"})
                if "why" in answer:
                    print(f"no perplexity of {name}: {answer['why']}", file=sys.stderr)
                    continue
                known[key] = round(answer["perplexity"], 4)
                store.write_text(json.dumps(known, indent=1))
            if key in known:
                found[name] = known[key]
        return found

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers.values():
            worker.close()

    def _identity(self, name: str) -> str:
        """What a system's figures follow from: its version, its model's bytes, and the code that drives it."""
        facts = self.facts[name]
        made_with = convert.digest(convert.module_file(self.systems[name]))[:16]
        return f"{name} {made_with} {facts['version']} {convert.model_hash(facts['folder'])}"

    def _row(self, name: str, case: Case | None) -> report.Row:
        """What is known before anything is measured."""
        system, facts = self.systems[name], self.facts.get(name, {})
        row: report.Row = {"system": system.name, "precision": system.precision, "point": system.point}
        row |= {key: getattr(case, key, None) for key in ("batch", "prompt", "cache")}
        row |= dict.fromkeys(
            ("prefill_s", "decode_tok_s", "peak_mb", "perplexity", "read_gb_s", "share_of_bandwidth", "why")
        )
        return row | {key: facts.get(key) for key in ("model_mb", "build_s", "load_s", "version", *report.MEMORY)}


def engines(folders: str) -> list[System]:
    """The engine folders named, or all there are."""
    named = [Path(folder.strip()) for folder in folders.split(",") if folder.strip()]
    found = named or sorted(Path("artifacts").glob("*/engine"))
    for folder in named:
        if not (folder / "engine.json").exists():
            raise SystemExit(f"there is no engine in {folder}; build one: python -m pipeline point=NAME")
    if not found:
        print(f"no row for {OURS}: there is no engine in artifacts/; build one with: make run", file=sys.stderr)
    return [engine(folder) for folder in found if (folder / "engine.json").exists()]


def main() -> None:
    """Run the benchmark."""
    asked = options(sys.argv[1:])
    cases = SETS[asked.cases]
    if not asked.engines:
        points.build_missing(cases)
    systems = chosen([*engines(asked.engines), *PEERS], asked.systems)
    systems = [system for system in systems if any(system.takes(case) for case in cases)]
    (SCRATCH / "logs").mkdir(parents=True, exist_ok=True)
    source = convert.checkpoint(SCRATCH)
    tokens = SCRATCH / text.FILE
    if not tokens.exists():
        text.write_tokens(source, tokens)
    threads = cores()  # every system gets as many
    bench = Bench(systems, tokens, threads)
    try:
        bench.start(source)
        bench.memory()
        rows = bench.measure(cases, asked.rounds)
        write(rows, asked.out, report.table(rows, threads))  # perplexity may take minutes more
        perplexities = bench.perplexities(asked.cases != "smoke")
    finally:
        bench.close()
    for row in rows:
        row["perplexity"] = perplexities.get(f"{row['point'] or row['system']} {row['precision']}")
    table = report.table(rows, threads)
    write(rows, asked.out, table)
    (SCRATCH / UNFINISHED).unlink(missing_ok=True)
    print(table)
    for plot in plots.draw(rows, asked.out):
        print(f"wrote {plot}")


def write(rows: Sequence[report.Row], folder: Path, table: str) -> None:
    """The rows and their table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / "results.md").write_text(table)


if __name__ == "__main__":
    main()
