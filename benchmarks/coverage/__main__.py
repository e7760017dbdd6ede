"""make coverage: build and verify every causal LM of transformers as a tiny random model; write docs/coverage.*.

    python -m benchmarks.coverage [--types llama,bert] [--again] [--workers 2]

A type whose row was made by the same code and the same versions is left as it is.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from transformers.utils import logging

from benchmarks.coverage import report
from benchmarks.coverage.configurations import tiny, types
from benchmarks.coverage.workers import Limits, Row, each
from pipeline.core.files import write_json

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "coverage.json"
LOGS = ROOT / ".bench" / "coverage"
LIMITS = Limits(seconds=1200, processor=300, memory=8 * 2**30)
VERSIONS = ("transformers", "torch", "onnx", "onnxscript", "onnxruntime", "onnxsim", "tensorrt-rtx-cu13-bindings")


def code() -> str:
    """Return a hash of pipeline/, conf/ and the code that builds and judges."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in ("pipeline", "conf", "benchmarks/coverage") for p in (ROOT / folder).rglob("*")):
        if path.suffix in {".py", ".yaml"} and path.name not in {"families.py", "report.py", "__main__.py"}:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def key(kind: str, of: str) -> str:
    """Return a hash of all that a type's row follows from; `of`: the hash of the code and the versions."""
    try:
        changes = json.dumps(tiny(kind), sort_keys=True)
    except Exception as error:  # the row says so
        changes = str(error)
    return hashlib.sha256(f"{of}{kind}{changes}".encode()).hexdigest()[:12]


def warm_up() -> None:
    """Import and run, once for all types, what each would otherwise import for itself."""
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    from benchmarks.coverage import attempt
    from benchmarks.in_process import composed, run, write_point

    with tempfile.TemporaryDirectory() as folder:
        point = Path(folder) / "point"
        write_point(point, composed(["experiment=tiny"]))
        for stage in attempt.STAGES[:2]:  # the later ones start threads
            run(stage, point)


def build(kind: str) -> Row:
    """Build and verify a type in a temporary folder."""
    from benchmarks.coverage.attempt import attempt

    with tempfile.TemporaryDirectory() as folder:
        return attempt(kind, Path(folder))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--types", default="", help="types of transformers, separated by commas; all by default")
    parser.add_argument("--again", action="store_true", help="build types again whose rows are up to date")
    parser.add_argument("--workers", type=int, default=2, help="types that are built at a time")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.set_verbosity_error()  # it warns of defaults that contradict each other
    known = types()
    chosen = options.types.split(",") if options.types else known
    if unknown := set(chosen) - set(known):
        parser.error(f"transformers has no causal LM {', '.join(sorted(unknown))}")
    before = report.read(options.results)
    versions = {name: version(name) for name in VERSIONS}
    of = hashlib.sha256((code() + json.dumps(versions)).encode()).hexdigest()
    keys = {kind: key(kind, of) for kind in chosen}
    rows: dict[str, Row] = dict(before.get("types", {}))
    left = [kind for kind in chosen if options.again or rows.get(kind, {}).get("of") != keys[kind]]
    if left:
        warm_up()
    for count, (kind, result) in enumerate(each(left, build, options.workers, LIMITS, LOGS), 1):
        row = report.crashed(result) if isinstance(result, str) else result
        rows[kind] = row | {"of": keys[kind]}
        print(f"{count}/{len(left)} {report.line(kind, row)}", flush=True)
        write_json(options.results, {"versions": versions, "types": dict(sorted(rows.items()))})
    rows = {kind: row for kind, row in sorted(rows.items()) if kind in known}
    after = {"versions": versions, "types": rows}
    write_json(options.results, after)
    report.write(after, options.results.with_suffix(".md"))
    for change in report.changes(report.committed(), after):
        print(change)
    print(report.summary(after), file=sys.stderr)


if __name__ == "__main__":
    main()
