"""Stage verify: hold every artifact against the original model in fp32; fail when a gate is missed.

verify.json: {"passed", "gates", "quantized_gates", "quality", "skipped": {artifact: why it cannot run here},
"artifacts": {artifact: {case: figures and failures}}}. What cannot run here is inspected and no more.
accuracy.json: the worst figure of each artifact, for `dvc metrics`.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pipeline import checkpoint, layout, positions, quality, stage
from pipeline.artifacts import Artifact, artifacts
from pipeline.cases import catalog
from pipeline.compare import GATES, Result, Truth, for_json, run_case, run_greedy
from pipeline.contract import size_findings
from pipeline.errors import Problem, UserError
from pipeline.files import write_json
from pipeline.reference import Reference
from pipeline.session import Runtime, largest
from pipeline.signature import Signature
from pipeline.spec import Gates, Model, Verify, section
from pipeline.tokens import load_tokenizer

SHOWN = 3  # failed cases of an artifact that are printed
RANDOM_PROMPTS = (10, 20, 30)  # lengths, for a model without a tokenizer


def gates_of(artifact: Artifact, options: Verify) -> tuple[Gates, str]:
    """The gates of an artifact and their config section."""
    if not artifact.quantized:
        return options.gates, GATES
    own = {gate: value for gate, value in asdict(options.quantized_gates).items() if value is not None}
    return replace(options.gates, **own), "verify.quantized_gates"


def verify_artifact(
    artifact: Artifact, truth: Truth, prompts: list[list[int]], windows: list[list[int]], options: Verify
) -> dict[str, Result]:
    """All cases of one artifact, by name; of one that has an obstacle, its contract alone. That it does not even run
    is a failure too, not an error."""
    contract = Result()
    results = {"contract": contract}
    runtime: Runtime | None = None
    obstacle = artifact.obstacle()
    if obstacle is not None:
        print(f"{artifact.name} is not run: {obstacle}")
    with _recorded(contract):
        contract.failures += artifact.findings()
        runtime = artifact.open(truth.reference) if obstacle is None else None
    if runtime is None:
        return results
    runs: dict[str, Callable[[], Result]] = {}
    cases = catalog(runtime.bounds, artifact.signature.cache_size, artifact.signature.limits)
    gates = gates_of(artifact, options)
    for case in cases:
        runs[case.name] = partial(run_case, case, runtime, truth, *gates)
    new = options.greedy_tokens
    for label, batch in greedy_batches(prompts, runtime, new).items():
        runs[label] = partial(run_greedy, batch, new, runtime, truth, *gates, options.quality.repetition)
    if artifact.name == layout.ENGINE and options.quality.tokens:
        carried = quality.carried_over(artifact.point)
        runs["quality"] = partial(quality.measure, runtime, truth.reference, windows, options.quality, carried)
    for label, run in tqdm(runs.items(), desc=artifact.name, unit="case", leave=False):
        results[label] = Result()
        with _recorded(results[label]):
            results[label] = run()
    ran = {size for case in cases if not results[case.name].crashed for size in case.sizes()}
    contract.failures += size_findings(
        {"batch": {batch for batch, _ in ran}, "sequence": {sequence for _, sequence in ran}}, largest(runtime.bounds)
    )
    return results


def greedy_batches(prompts: list[list[int]], runtime: Runtime, count: int) -> dict[str, list[list[int]]]:
    """Each prompt by itself, and as many together as a batch takes, cut to what leaves room for `count` new tokens."""
    most = largest(runtime.bounds)
    longest = min(most["sequence"], runtime.signature.cache_size - count + 1)
    fitting = [prompt[:longest] for prompt in prompts]
    alone = {f"greedy {i}": [prompt] for i, prompt in enumerate(fitting)}
    return alone | {"greedy ragged batch": fitting[: most["batch"]]}


@contextmanager
def _recorded(result: Result) -> Iterator[None]:
    """Whatever a damaged artifact raises belongs into its result."""
    try:
        yield
    except Exception as error:  # any runtime, any damage
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        result.crashed = True
        result.failures.append(f"does not run: {first}")


def tokenized(prompts: list[str], point: Path, signature: Signature, seed: int) -> list[list[int]]:
    """The prompts as tokens; random tokens for a model that has no tokenizer."""
    tokenizer = load_tokenizer(point / layout.WRAPPED)
    if tokenizer is not None:
        return [tokenizer(text)["input_ids"] for text in prompts]
    rng = np.random.default_rng(seed)
    return [rng.integers(0, int(signature.logits.shape[2]), n).tolist() for n in RANDOM_PROMPTS]


def verify(point: Path, model: Model, options: Verify) -> dict[str, dict[str, Result]]:
    """Verify every artifact of a point against its original: artifact -> case -> result."""
    signature = Signature.load(point / layout.WRAPPED / layout.SIGNATURE)
    original = checkpoint.load(model, point / layout.CHECKPOINT)
    positions.freeze(original, signature.cache_size)
    reference = Reference(original)
    truth = Truth(reference, signature, options.seed)
    prompts = tokenized(options.prompts, point, signature, options.seed)
    windows = quality.windows(point, options.quality, truth.vocab, options.seed) if options.quality.tokens else []
    results = {}
    for artifact in artifacts(point, signature):
        gc.collect()  # a program's graph is full of cycles: its weights would stay while the next ones load
        results[artifact.name] = verify_artifact(artifact, truth, prompts, windows, options)
    return results


def worst(results: dict[str, Result]) -> dict[str, float | str]:
    """The worst value of each figure over an artifact's cases; NaN is worse than any."""
    values: dict[str, list[float]] = {}
    for result in results.values():
        for name, value in result.figures.items():
            values.setdefault(name, []).append(value)
    pick = {"greedy_agreement": np.min, "top1": np.min}
    return {name: for_json(float(pick.get(name, np.max)(found))) for name, found in values.items()}


def problems(results: dict[str, dict[str, Result]]) -> list[Problem]:
    """For each artifact the first cases that failed, naming artifact, case and tensor; all are in the report."""
    fix = f"the first artifact named is where it went wrong; all cases are in {layout.VERIFY}"
    found = []
    for artifact, cases in results.items():
        failed = {case: result.failures[0] for case, result in cases.items() if result.failures}
        found += [Problem(text, f"artifact {artifact}, case {case}", fix) for case, text in failed.items()][:SHOWN]
        if len(failed) > SHOWN:
            found.append(Problem(f"{len(failed) - SHOWN} more cases failed", f"artifact {artifact}", fix))
    return found


def main() -> None:
    """Run the stage in a point's folder."""
    options, signature = section(Verify), Signature.load(Path(layout.WRAPPED) / layout.SIGNATURE)
    results = verify(Path(), section(Model), options)
    obstacles = {artifact.name: artifact.obstacle() for artifact in artifacts(Path(), signature)}
    missed = problems(results)
    report: dict[str, Any] = {
        "passed": not missed,
        "gates": asdict(options.gates),
        "quantized_gates": asdict(options.quantized_gates),
        "quality": asdict(options.quality),
        "skipped": {name: why for name, why in obstacles.items() if why is not None},
        "artifacts": {a: {c: r.as_dict() for c, r in cases.items()} for a, cases in results.items()},
    }
    write_json(Path(layout.VERIFY), report)
    write_json(Path(layout.ACCURACY), {"passed": not missed} | {a: worst(cases) for a, cases in results.items()})
    if missed:
        raise UserError(missed)
    print(f"verified {sum(map(len, results.values()))} cases of {', '.join(results)}")


if __name__ == "__main__":
    stage.run("verify", main)
