"""Build one tiny model for both engines, and verify it."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.coverage.configurations import tiny
from benchmarks.in_process import composed, run, write_point
from pipeline import engine, export, quantize, simplify, verify, wrap
from pipeline.core import layout
from pipeline.core.errors import Problem, Refusal, UserError, first_line
from pipeline.core.schema import Model, Verify, section
from pipeline.proof.results import Result

STAGES = (wrap, export, simplify, quantize, engine)
PASS, FAIL, REFUSED = "pass", "fail", "refused"
ENGINES = {
    "onnxruntime": ["engine=onnxruntime_cpu", "precision=fp32"],
    # the gate allows one near tie in so many tokens, and none in fewer
    "tensorrt_rtx": ["engine=tensorrt_rtx", "precision=fp16", "verify.greedy_tokens=34"],
}
# engine -> the artifacts that must pass, all if none is named: without a GPU a plan cannot run, only its network
JUDGED = {"onnxruntime": (), "tensorrt_rtx": (layout.NETWORK,)}
REFUSING = {"wrap": "configuration", "engine": "TensorRT has no kernel"}  # stage -> category of its problems
FAULT = "TensorRT's network, after parsing"  # where a finding of the lint is


@dataclass
class Ended(Exception):  # noqa: N818  # it may be a refusal
    """How and where a build ended early."""

    status: str
    category: str
    reason: str


def attempt(kind: str, folder: Path) -> dict[str, Any]:
    """Return the row of a type: a status of each engine, category, reason and seconds. It builds in `folder`."""
    row: dict[str, Any] = dict.fromkeys(ENGINES, PASS) | {"category": "", "reason": ""}
    start = time.perf_counter()
    for name, overrides in ENGINES.items():
        try:
            _build(kind, folder / name, overrides, JUDGED[name])
        except Ended as end:
            row[name] = end.status
            if not row["reason"]:
                row |= {"category": end.category, "reason": end.reason}
            if end.category != "verify" and name == "onnxruntime":  # there is nothing for TensorRT to read
                row |= dict.fromkeys(ENGINES, end.status)
                break
    return row | {"seconds": round(time.perf_counter() - start, 1)}


def _build(kind: str, folder: Path, overrides: Sequence[str], judged: Sequence[str]) -> None:
    """Build and verify one point; raise Ended unless it passes."""
    with _ended("configuration"):
        model = {"source": "random", "architecture": kind, "config": tiny(kind), "seed": 0}
        quick = ["experiment=tiny", "verify.quality.tokens=0"]  # the quality of random weights means nothing
        write_point(folder, composed([*quick, *overrides]) | {"model": model})
    for stage in STAGES:
        with _ended(_name(stage)):
            run(stage, folder)
    with _ended("verify"):
        found = verify.verify(folder, section(Model, folder), section(Verify, folder), judged)
        if reason := failed(found.results):
            raise Ended(FAIL, "verify", reason)


def failed(results: dict[str, dict[str, Result]]) -> str:
    """Return the first failure, with its artifact and case, and how many more cases failed; "" for none."""
    found = [
        f"{artifact}, {case}: {result.failures[0]}"
        for artifact, cases in results.items()
        for case, result in cases.items()
        if result.failures
    ]
    found.sort(key=lambda failure: "does not run" not in failure)  # what never ran explains the rest
    return "" if not found else found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")


@contextmanager
def _ended(stage: str) -> Iterator[None]:
    """Turn an error into Ended: a problem that stops the first stages, or that TensorRT has with the graph, is a
    refusal; anything else is a failure of the stage."""
    try:
        yield
    except UserError as error:
        problem: Problem = error.problems[0]
        refused = isinstance(problem, Refusal) or (stage in REFUSING and problem.where != FAULT)
        category = problem.category if isinstance(problem, Refusal) else REFUSING.get(stage, stage)
        raise Ended(REFUSED if refused else FAIL, category, problem.what) from error
    except Ended:
        raise
    except Exception as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {first_line(error)} ({Path(where.filename).name}:{where.lineno})"
        raise Ended(FAIL, stage, reason) from error


def _name(stage: ModuleType) -> str:
    return stage.__name__.rpartition(".")[2]
