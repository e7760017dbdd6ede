"""Engines for clients (engine=onnxruntime_client): greedy tokens in each client, and speed beside our own session.

    python -m pipeline model=smollm2_135m precision=int4 engine=onnxruntime_client point=int4
    python -m benchmarks.client_engines artifacts/fp32 artifacts/int8 artifacts/int4

A folder is a point with such an engine. Prompts of 8 tokens and more get as many tokens each, alone and in ragged
batches of 3. In fp32 the tokens must be the original's: one forward over a text gives its choices. Otherwise they must
be those of our own session over the engine that engine=onnxruntime_cpu gives of the same model. Our session and
onnxruntime-genai run the same file in turn, on one thread; their seconds are of processor time. A client that is not
installed has no rows; `make tests/node/node_modules/.installed` installs Node's packages. Writes client_engines.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np
import onnx

from benchmarks.text import prompts as text_prompts
from benchmarks.text import write_tokens
from pipeline import engine
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.arrays import Array
from pipeline.core.schema import Engine, EngineKind, Model, Profile, section
from pipeline.proof.reference import Reference
from pipeline.runtime.onnxruntime import FLASH_ATTENTION_OFF
from pipeline.runtime.open import open_engine

SCRATCH = Path(".bench/client_engines")
OUT = Path(__file__).parent / "client_engines.md"
RAGGED = 3
HERE = Path(__file__).parent / "clients"
MODULES = HERE.parents[1] / "tests/node/node_modules"
Rows = Sequence[Sequence[int]]
Answer = tuple[list[list[int]], float]  # tokens of each row, seconds of processor time


def ours(folder: Path, count: int) -> Callable[[Rows], Answer]:
    """Our own session."""
    runtime = open_engine(folder, threads=1)

    def run(rows: Rows) -> Answer:
        session, new = runtime.session(len(rows)), rows
        answers: list[list[int]] = [[] for _ in rows]
        start = time.process_time()
        for _ in range(count):
            chosen = session.step(new)[:, -1].argmax(-1).tolist()
            new = [[token] for token in chosen]
            for answer, token in zip(answers, chosen, strict=True):
                answer.append(token)
        return answers, time.process_time() - start

    return run


def genai(folder: Path, count: int, unused: int) -> Callable[[Rows], Answer]:
    """onnxruntime-genai; `unused`: a token that no text has, which ends texts and pads here."""
    import onnxruntime_genai as og

    config = og.Config(str(folder))
    threads = {"session_options": {"intra_op_num_threads": 1}}
    config.overlay(json.dumps({"model": {"eos_token_id": unused, "pad_token_id": unused, "decoder": threads}}))
    model = og.Model(config)

    def run(rows: Rows) -> Answer:
        longest = max(map(len, rows))
        params = og.GeneratorParams(model)
        params.set_search_options(batch_size=len(rows), max_length=longest + count)
        generator = og.Generator(model, params)
        padded = np.array([[*row, *[unused] * (longest - len(row))] for row in rows], np.int32)
        start = time.process_time()
        generator.append_tokens(padded)
        answers: list[list[int]] = [[] for _ in rows]
        for _ in range(count):
            generator.generate_next_token()
            for answer, token in zip(answers, generator.get_next_tokens().tolist(), strict=True):
                answer.append(token)
        return answers, time.process_time() - start

    return run


def openvino(folder: Path, count: int) -> Callable[[Rows], Answer]:
    """OpenVINO on the CPU. Its `present` holds the used slots only, which are copied back; it takes one row."""
    import openvino as ov

    compiled = ov.compile_model(folder / layout.MODEL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    caches = {port.any_name: port for port in compiled.inputs if port.any_name.startswith("past_key_values")}

    def run(rows: Rows) -> Answer:
        request = compiled.create_infer_request()
        held = {
            name: np.zeros([len(rows), *port.partial_shape.get_max_shape()[1:]], np.float32)
            for name, port in caches.items()
        }
        answers: list[list[int]] = [[] for _ in rows]
        used: Array = np.zeros(len(rows), np.int64)
        new = [list(row) for row in rows]
        start = time.process_time()
        for _ in range(count):
            longest = max(map(len, new))
            feeds = {
                "input_ids": np.array([[*row, *[0] * (longest - len(row))] for row in new], np.int64),
                "position_ids": used[:, None] + np.arange(longest),
            }
            used = used + [len(row) for row in new]
            feeds["attention_mask"] = (np.arange(used.max()) < used[:, None]).astype(np.int64)
            request.infer(feeds | held)
            for name, cache in held.items():
                present = request.get_tensor(name.replace("past_key_values", "present")).data
                cache[:, :, : present.shape[2]] = present
            chosen = request.get_tensor("logits").data[:, -1].argmax(-1).tolist()
            new = [[token] for token in chosen]
            for answer, token in zip(answers, chosen, strict=True):
                answer.append(token)
        return answers, time.process_time() - start

    return run


def node(folder: Path, count: int, groups: Sequence[Rows]) -> tuple[list[list[int]], str]:
    """Tokens in onnxruntime-node, and its version."""
    script = SCRATCH / "node.mjs"  # modules are looked for beside the script
    shutil.copy(HERE / "node.mjs", script)
    link = SCRATCH / "node_modules"
    link.unlink(missing_ok=True)
    link.symlink_to(MODULES)
    done = subprocess.run(
        ["node", script, folder.resolve(), str(count)],  # noqa: S607  # of the user's PATH
        input=json.dumps(groups), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return found["answers"], json.loads((MODULES / "onnxruntime-node/package.json").read_text(encoding="utf-8"))[
        "version"
    ]


def cpu_engine(point: Path) -> Path:
    """The engine of engine=onnxruntime_cpu of the same model."""
    out = SCRATCH / point.name
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    options = replace(section(Engine, point), kind=EngineKind.onnxruntime, lower=True)
    engine.build(point / layout.WRAPPED, layout.final_model(point), options, section(Profile, point), out)
    return out


def equal(want: Rows, got: Rows) -> str:
    """How many tokens come before the first that differs, of all rows together."""
    same = 0
    for row, other in zip(want, got, strict=True):
        differs = [a != b for a, b in zip(row, other, strict=True)]
        same += differs.index(True) if True in differs else len(row)
    return f"{same} of {sum(map(len, want))}"


def _why(error: RuntimeError) -> str:
    """Why OpenVINO does not run a graph: the last line that says so, among many."""
    lines = re.findall(r"^(?:GatherBlockQuantized|MatMulNBits|\[CPU\]|Check).*", str(error), re.MULTILINE)
    return f"does not run: {' '.join(lines[-1:])}"


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(point: Path, number: int, count: int) -> tuple[list[str], list[str]]:
    """The rows of tokens and the remarks of one point."""
    folder, own = point / layout.ENGINE, cpu_engine(point)
    tokens = SCRATCH / "tokens.json"
    write_tokens(folder, tokens)
    lengths = [8 + 2 * row for row in range(number)]
    read = text_prompts(json.loads(tokens.read_text(encoding="utf-8")), number, max(lengths))
    prompts = [row[:length] for row, length in zip(read, lengths, strict=True)]
    batches = {
        1: [[prompt] for prompt in prompts],
        RAGGED: [prompts[i : i + RAGGED] for i in range(0, number, RAGGED)],
    }
    vocab = int(json.loads((folder / layout.GENAI_CONFIG).read_text(encoding="utf-8"))["model"]["vocab_size"])
    unused = vocab - 1
    exact = layout.final_model(point).name != layout.QUANTIZED
    session, rows, remarks = ours(own, count), [], []
    want = [answer for batch in batches[1] for answer in session(batch)[0]]
    assert unused not in {token for row in [*want, *prompts] for token in row}
    if exact:
        original = Reference(loading.load(section(Model, point), point / layout.CHECKPOINT))
        want = [original.greedy([*p, *answer[:-1]], count).tolist() for p, answer in zip(prompts, want, strict=True)]
        del original
    del session

    def row(client: str, release: str | None, got: Mapping[int, list[list[int]] | str]) -> None:
        made = (got[batch] for batch in batches)
        cells = " | ".join(one if isinstance(one, str) else equal(want, one) for one in made)
        rows.append(f"| {client} | {release} | {point.name} | {cells} |")
        print(rows[-1], flush=True)

    runs = {"our session": ours(folder, count)}
    if installed("onnxruntime-genai"):
        runs["onnxruntime-genai"] = genai(folder, count, unused)
    answers: dict[str, dict[int, list[list[int]]]] = {name: {batch: [] for batch in batches} for name in runs}
    for batch, groups in batches.items():
        ratios, seconds = [], dict.fromkeys(runs, 0.0)
        for turn, group in enumerate(groups):
            taken = {}
            for name in sorted(runs, reverse=turn % 2 == 0):
                made, taken[name] = runs[name](group)
                answers[name][batch] += made
                seconds[name] += taken[name]
            ratios.append(taken[list(runs)[-1]] / taken["our session"])
        speeds = ", ".join(f"{name} {number * count / taken:.1f}" for name, taken in seconds.items())
        remarks.append(f"| {point.name} | {batch} | {speeds} | {median(ratios):.2f} |")
        print(remarks[-1], flush=True)
    runs.clear()
    row("our session", installed("onnxruntime"), answers["our session"])
    if "onnxruntime-genai" in answers:
        row("onnxruntime-genai", installed("onnxruntime-genai"), answers["onnxruntime-genai"])
    if MODULES.is_dir():
        found = {batch: node(folder, count, groups) for batch, groups in batches.items()}
        row("onnxruntime-node", found[1][1], {batch: made for batch, (made, _) in found.items()})
    if installed("openvino"):
        cells = []
        for groups in batches.values():
            try:
                run = openvino(folder, count)
                cells.append([one for group in groups for one in run(group)[0]])
            except RuntimeError as error:
                cells.append(_why(error))
        row("OpenVINO", installed("openvino"), dict(zip(batches, cells, strict=True)))
    files = [onnx.load(one / layout.MODEL, load_external_data=False).graph for one in (folder, own)]
    same = (folder / layout.DATA).read_bytes() == (own / layout.DATA).read_bytes()
    nodes = " and ".join(str(len(graph.node)) for graph in files)
    remarks.append(
        f"{point.name}: {nodes} nodes with engine=onnxruntime_client and onnxruntime_cpu; the same weights: {same}"
    )
    return rows, remarks


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="+", type=Path)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()
    points: list[Path] = given.points
    SCRATCH.mkdir(parents=True, exist_ok=True)
    os.environ[FLASH_ATTENTION_OFF] = "1"  # in clients too: another order of sums rounds activations to other integers
    tables: list[str] = []
    speeds: list[str] = []
    notes: list[str] = []
    for point in points:
        rows, remarks = measure(point, given.prompts, given.tokens)
        tables += rows
        speeds += [line for line in remarks if line.startswith("|")]
        notes += [f"* {line}." for line in remarks if not line.startswith("|")]
    parts = [
        "# Engines for clients",
        "",
        f"Greedy tokens before the first that differs: {given.prompts} prompts of 8 to {6 + 2 * given.prompts} tokens",
        f"get {given.tokens} new ones each.",
        "",
        f"| client | version | precision | alone | ragged batches of {RAGGED} |",
        "|:--|:--|:--|--:|--:|",
        *tables,
        "",
        "Tokens a second over the same file, in turn, and the median ratio of the speeds.",
        "",
        "| precision | rows | tokens a second | our speed / onnxruntime-genai's |",
        "|:--|--:|:--|--:|",
        *speeds,
        "",
        f"* `python -m benchmarks.client_engines {' '.join(point.name for point in points)}`.",
        "* Seconds of processor time, one thread.",
        "* In fp32 the tokens are compared with the original's, else with those of our session over the engine of",
        "  engine=onnxruntime_cpu.",
        f"* All run with `{FLASH_ATTENTION_OFF}=1`, as our sessions do by themselves.",
        *notes,
        "* The machine was busy with other work: compare ratios.",
    ]
    OUT.write_text("\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
