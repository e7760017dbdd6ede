"""Stage verify: compare every artifact with the original model in fp32; fail when a gate is missed.

verify.json: {"passed", "gates", "quantized_gates", "cache_gates", "headroom", "quality", "notes": warnings of stage
wrap, "skipped": {artifact: why it cannot run here}, "limits": {artifact: {metric: its gate's value and key}}, "texts":
what the engine writes after each prompt, "artifacts": {artifact: {case: figures and failures, or why it was not run}}}.
An artifact that cannot run here is only inspected.
accuracy.json: the worst value of each figure of each artifact, for `dvc metrics`.

All artifacts run all cases. When several hold the same weights, only the last one generates all the greedy text. The
others generate the beginning of the ragged batch: the cases, which compare every number, show their faults.
"""

import gc
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline.checkpoint import loading
from pipeline.core import layout, stage
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError, first_line
from pipeline.core.files import write_json
from pipeline.core.schema import Gates, Model, Verify, section
from pipeline.model import positions
from pipeline.proof import quality, sensitivity, token_ids
from pipeline.proof.artifacts import Artifact, Engine, artifacts
from pipeline.proof.cases import catalog, not_run
from pipeline.proof.compare import ReferenceAnswers, run_case, run_greedy
from pipeline.proof.interface import size_findings
from pipeline.proof.metrics import METRICS
from pipeline.proof.reference import Reference
from pipeline.proof.results import GATES, QUALITY, Result, for_json, limits, limits_of, with_cache
from pipeline.proof.written import texts_of
from pipeline.runtime.session import Runtime
from pipeline.text import texts
from pipeline.text.tokens import load_tokenizer

SHOWN = 3  # failed cases of an artifact that are printed
RANDOM_PROMPTS = (10, 20, 30)  # lengths, for a model without a tokenizer
SHORT_GREEDY = 16  # greedy tokens that an artifact generates when a later one has the same weights
GREEDY_BATCH = "greedy ragged batch"


@dataclass(frozen=True)
class Proof:
    """What artifacts are compared with: the original's answers, prompts and windows of text as tokens, gates."""

    answers: ReferenceAnswers
    prompts: list[list[int]]
    windows: list[list[int]]
    options: Verify


def gates_of(artifact: Artifact, options: Verify) -> tuple[Gates, str]:
    """The gates of an artifact and their config section."""
    if not artifact.quantized:
        return options.gates, GATES
    return options.quantized_gates, "verify.quantized_gates"


def verify_artifact(artifact: Artifact, proof: Proof, unavailable: str | None, all_text: bool) -> dict[str, Result]:
    """All cases of one artifact, by name. An artifact that fails to run is recorded as a failure, not raised.

    unavailable: why it cannot run here, so that only its interface is inspected; None to run it.
    all_text: whether it generates all greedy text.
    """
    interface = Result()
    results = {"contract": interface}
    runtime: Runtime | None = None
    if unavailable is not None:
        print(f"{artifact.name} is not run: {unavailable}")
    with _recorded(interface):
        interface.failures += artifact.findings()
        runtime = artifact.open(proof.answers.reference) if unavailable is None else None
    if runtime is None:
        return results
    runs: dict[str, Callable[[], Result]] = {}
    options, contract = proof.options, artifact.contract
    gates = limits(*gates_of(artifact, options)) | limits(options.quality, QUALITY)
    gates = with_cache(gates, contract, options.cache_gates)
    allowed = runtime.profiles, contract.cache_size, contract.limits
    results |= {name: Result(not_run=reason) for name, reason in not_run(*allowed).items()}
    cases = catalog(*allowed)
    for case in cases:
        reason = runtime.inexpressible(case.cached, case.steps)
        if reason:
            results[case.name] = Result(not_run=reason)
        else:
            runs[case.name] = partial(run_case, case, runtime, proof.answers, gates)
    batches = greedy_batches(proof.prompts, runtime, options.greedy_tokens)
    new = options.greedy_tokens
    if not all_text and len(batches[GREEDY_BATCH]) == len(proof.prompts):
        batches, new = {GREEDY_BATCH: batches[GREEDY_BATCH]}, min(SHORT_GREEDY, new)
    for label, batch in batches.items():
        runs[label] = partial(run_greedy, batch, new, runtime, proof.answers, gates)
    for label, run in tqdm(runs.items(), desc=artifact.name, unit="case", leave=False):
        results[label] = Result()
        with _recorded(results[label]):
            results[label] = run()
    done = [case for case in cases if not results[case.name].traceback and not results[case.name].not_run]
    ran = {size for case in done for size in case.sizes()}
    interface.failures += size_findings(
        {"batch": {batch for batch, _ in ran}, "sequence": {sequence for _, sequence in ran}},
        runtime.profiles.max_sizes(),
    )
    if isinstance(artifact, Engine) and options.quality.tokens:
        del runtime, runs, run  # so that its weights leave memory
        results["quality"] = Result()
        with _recorded(results["quality"]):
            carried = quality.carried_over(artifact.point)
            given = proof.answers.reference, proof.windows, options.quality
            results["quality"] = quality.measure(artifact.open_beside(), *given, carried, options.cache_gates)
    return results


def token_ids_of(folder: Path, model: Model, point: Path, text: str | None) -> Result:
    """Whether the tokenizer in a folder gives the token ids that follow from the checkpoint's own files."""
    result = Result()
    with _recorded(result):
        tokenizer = load_tokenizer(folder)
        if tokenizer is None:
            return Result(not_run="the model has no tokenizer")
        read = texts.read(text, texts.QUALITY, point)
        found = token_ids.findings(tokenizer, model, point / layout.CHECKPOINT, read)
        if found is None:
            return Result(not_run="no library but transformers reads this tokenizer's files")
        result.failures += found
    return result


def greedy_batches(prompts: list[list[int]], runtime: Runtime, count: int) -> dict[str, list[list[int]]]:
    """Each prompt by itself, and as many together as fit in a batch, cut to leave room for `count` new tokens."""
    longest = min(runtime.profiles.max("sequence"), runtime.contract.cache_size - count + 1)
    fitting = [prompt[:longest] for prompt in prompts]
    alone = {f"greedy {i}": [prompt] for i, prompt in enumerate(fitting)}
    return alone | {GREEDY_BATCH: fitting[: runtime.profiles.max("batch")]}


@contextmanager
def _recorded(result: Result) -> Iterator[None]:
    """Record an exception in the result, with its traceback, so that one damaged artifact does not hide the others.
    The traceback of one that our own code raises is printed too: it is a bug."""
    try:
        yield
    except Exception as error:  # any runtime, any damage
        result.traceback = "".join(traceback.format_exception(error))
        result.failures.append(f"does not run: {first_line(error)}")
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if not isinstance(error, UserError) and raised_in.is_relative_to(Path(__file__).parent):
            print(result.traceback, file=sys.stderr)


def tokenized(prompts: list[str], point: Path, contract: GraphContract, seed: int) -> list[list[int]]:
    """The prompts as tokens; random tokens for a model without a tokenizer."""
    tokenizer = load_tokenizer(point / layout.WRAPPED)
    if tokenizer is not None:
        return [tokenizer(text)["input_ids"] for text in prompts]
    rng = np.random.default_rng(seed)
    return [rng.integers(0, int(contract.logits.shape[2]), n).tolist() for n in RANDOM_PROMPTS]


@dataclass
class Verification:
    """The results of all artifacts: artifact -> case -> result. skipped: why an artifact cannot run here; fixes: what
    may help when it misses a gate."""

    skipped: dict[str, str]
    fixes: dict[str, str]
    results: dict[str, dict[str, Result]]


def verify(point: Path, model: Model, options: Verify, only: Collection[str] = ()) -> Verification:
    """Compare every artifact of a point with its original, or only the named ones."""
    contract = GraphContract.load(point / layout.WRAPPED / layout.CONTRACT)
    original = loading.load(model, point / layout.CHECKPOINT)
    positions.freeze(original, contract.cache_size)
    reference = Reference(original)
    answers = ReferenceAnswers(reference, contract, options.seed, options.headroom)
    sensitivity.check_finite(reference, answers.vocab, options.seed)
    prompts = tokenized(options.prompts, point, contract, options.seed)
    windows = quality.windows(point, options.quality, answers.vocab, options.seed) if options.quality.tokens else []
    proof = Proof(answers, prompts, windows, options)
    found, runnable = Verification({}, {}, {}), []
    all_ = [artifact for artifact in artifacts(point, contract) if not only or artifact.name in only]
    for artifact in all_:
        damaged = Result()
        with _recorded(damaged):
            found.fixes[artifact.name] = artifact.fix()
            unavailable = artifact.why_unavailable()
            if unavailable is not None:
                found.skipped[artifact.name] = unavailable
            elif artifact.name != layout.CLIENT:  # the engine itself generates all the text
                runnable.append((artifact.quantized, artifact.max_batch() >= len(prompts), artifact.name))
        if damaged.failures:
            found.results[artifact.name] = {"contract": damaged}
    # of the artifacts with the same weights: the last that takes all prompts in one batch, or else the last
    last: dict[bool, str] = {}
    for all_prompts in (False, True):
        last |= {quantized: name for quantized, takes_all, name in runnable if takes_all >= all_prompts}
    for artifact in all_:
        gc.collect()  # a program's graph is full of cycles: its weights would stay while the next ones load
        if artifact.name not in found.results:
            unavailable = found.skipped.get(artifact.name)
            found.results[artifact.name] = verify_artifact(artifact, proof, unavailable, artifact.name in last.values())
    found.results = {artifact.name: found.results[artifact.name] for artifact in all_}  # in the order of the stages
    for name in [name for name in (layout.WRAPPED, layout.ENGINE) if name in found.results]:  # they hold a tokenizer
        found.results[name]["token ids"] = token_ids_of(point / name, model, point, options.quality.text)
    return found


def worst(results: dict[str, Result]) -> dict[str, float | str]:
    """The worst value of each figure over an artifact's cases; a NaN is worse than any other."""
    found: dict[str, list[float]] = {}
    for result in results.values():
        for name, value in result.figures.items():
            found.setdefault(name, []).append(value)
    return {name: for_json(METRICS[name].worst((v, "") for v in values)[0]) for name, values in found.items()}


def problems(results: dict[str, dict[str, Result]], fixes: dict[str, str] | None = None) -> list[Problem]:
    """The first failed cases of each artifact, with its case and tensor; the report has all of them. Numbers that are
    not finite are one problem, of the first artifact that has them. fixes: artifact -> what may help."""
    found, known = [], fixes or {}
    broken = [
        (name, case, result.not_finite)
        for name, cases in results.items()
        for case, result in cases.items()
        if result.not_finite
    ]
    if broken:
        name, case, where = broken[0]
        more = f"; {len(broken) - 1} more cases have NaN or infinity too" if len(broken) > 1 else ""
        fix = "in fp16 a number may overflow: try precision=bf16 or fp32; in fp32 check the weights"
        what = f"{where} is not finite{more}"
        found.append(Problem(what, f"artifact {name}, case {case}", f"{fix}; all cases are in {layout.VERIFY}"))
    for artifact, cases in results.items():
        fix = f"look at the first artifact that fails: its stage went wrong; all cases are in {layout.VERIFY}"
        if artifact in known:
            fix = f"{known[artifact]}; {fix}"
        failed = {c: result.failures[0] for c, result in cases.items() if result.failures and not result.not_finite}
        found += [Problem(text, f"artifact {artifact}, case {case}", fix) for case, text in failed.items()][:SHOWN]
        if len(failed) > SHOWN:
            found.append(Problem(f"{len(failed) - SHOWN} more cases failed", f"artifact {artifact}", fix))
    return found


def remarks(results: dict[str, dict[str, Result]]) -> dict[str, list[str]]:
    """Remarks on artifacts that passed -> the artifacts that each is true of: cases not run, gates widened, caches that
    were compared in part."""
    found: dict[str, list[str]] = {}
    for artifact, cases in results.items():
        lines = [f"case not run: {case}: {result.not_run}" for case, result in cases.items() if result.not_run]
        widened = sum(bool(result.widened) for result in cases.values())
        if widened:
            lines.append(f"{widened} {'case passes' if widened == 1 else 'cases pass'} only by verify.headroom")
        dropped = sum(bool(result.dropped) for result in cases.values())
        if dropped:
            compare = "case compares" if dropped == 1 else "cases compare"
            lines.append(f"{dropped} {compare} caches of sliding windows only on the tokens that they keep")
        for line in lines:
            found.setdefault(line, []).append(artifact)
    return found


def main() -> None:
    """Run the stage in a point's folder."""
    options = section(Verify)
    found = verify(Path(), section(Model), options)
    results = found.results
    missed = problems(results, {name: fix for name, fix in found.fixes.items() if fix})
    report: dict[str, Any] = {
        "passed": not missed,
        "gates": asdict(options.gates),
        "quantized_gates": asdict(options.quantized_gates),
        "cache_gates": asdict(options.cache_gates),
        "headroom": options.headroom,
        "quality": asdict(options.quality),
        "notes": json.loads((Path(layout.WRAPPED) / layout.NOTES).read_text(encoding="utf-8")),
        "skipped": found.skipped,
        "limits": {a: {m: asdict(limit) for m, limit in limits_of(cases).items()} for a, cases in results.items()},
        "texts": texts_of(results.get(layout.ENGINE, {}), Path(layout.WRAPPED)),
        "artifacts": {a: {c: r.as_dict() for c, r in cases.items()} for a, cases in results.items()},
    }
    write_json(Path(layout.VERIFY), report)
    write_json(Path(layout.ACCURACY), {"passed": not missed} | {a: worst(cases) for a, cases in results.items()})
    if missed:
        raise UserError(missed)
    for text, names in remarks(results).items():
        print(f"{', '.join(names)}: {text}")
    ran = sum(not result.not_run for cases in results.values() for result in cases.values())
    print(f"verified {ran} cases of {', '.join(results)}")


if __name__ == "__main__":
    stage.run("verify", main)
