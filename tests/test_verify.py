"""The proof must be able to fail: real damage in each artifact is caught, and named."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from pipeline import verify, wrap
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Cache, Model, Verify, section
from pipeline.model import decoder
from pipeline.proof import quality
from pipeline.proof.artifacts import Artifact, artifacts
from pipeline.proof.cases import Case
from pipeline.proof.compare import ReferenceAnswers, run_case, run_greedy
from pipeline.proof.reference import Reference
from pipeline.proof.repetition import repetition
from pipeline.proof.results import QUALITY, Limit, Result, limits, with_cache
from pipeline.runtime import genai
from pipeline.runtime.open import open_engine
from pipeline.runtime.torch import Torch
from pipeline.verify import (
    GREEDY_BATCH,
    Proof,
    gates_of,
    greedy_batches,
    problems,
    remarks,
    tokenized,
    verify_artifact,
    worst,
)
from tests.support.points import ROOT, build_once


@pytest.fixture(scope="module")
def answers(tiny: tuple[Path, GraphContract]) -> ReferenceAnswers:
    """The original's answers, shared by all tests here."""
    folder, contract = tiny
    original = loading.load(section(Model, folder), folder)
    return ReferenceAnswers(Reference(original), contract, seed=0, headroom=section(Verify, folder).headroom)


def found(folder: Path) -> dict[str, Artifact]:
    """A point's artifacts, by name."""
    contract = GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)
    return {artifact.name: artifact for artifact in artifacts(folder, contract)}


def run(name: str, folder: Path, answers: ReferenceAnswers) -> dict[str, Result]:
    """One artifact's results, as verify would have them: the engine generates all greedy text."""
    artifact, options = found(folder)[name], section(Verify, folder)
    prompts = tokenized(options.prompts, folder, artifact.contract, 0)
    windows = quality.windows(folder, options.quality, answers.vocab, 0)
    proof = Proof(answers, prompts, windows, options)
    return verify_artifact(artifact, proof, artifact.why_unavailable(), all_text=name == layout.ENGINE)


@pytest.mark.parametrize("artifact", [layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED, layout.ENGINE])
def test_sound_artifacts_pass(tiny: tuple[Path, GraphContract], answers: ReferenceAnswers, artifact: str) -> None:
    """Contract, 13 cases and greedy text; of the engine each prompt alone and its quality too. Figures of rounding."""
    results = run(artifact, tiny[0], answers)
    assert problems({artifact: results}) == []
    assert len(results) == 15 + 4 * (artifact == layout.ENGINE)
    figures = worst(results)
    assert 0 < float(figures["logits_error"]) < 1e-5
    assert 0 < float(figures["cache_error"]) < 1e-5
    assert float(figures["kl"]) < 1e-10
    assert figures["greedy_agreement"] == 1


def test_a_program_in_bf16_is_run(tmp_path: Path) -> None:
    """In PyTorch, which does not know numpy's bfloat16: off by rounding, and by no more than its gates. (Random weights
    come near to ties: of 16 tokens 2 are others.)"""
    build_once(tmp_path, ["precision=bf16", "engine=tensorrt_rtx", "verify.gates.greedy_agreement=0.8"], wrap)
    contract = GraphContract.load(tmp_path / layout.WRAPPED / layout.CONTRACT)
    answers = ReferenceAnswers(Reference(loading.load(section(Model, tmp_path), tmp_path)), contract, seed=0)
    results = run(layout.WRAPPED, tmp_path, answers)
    assert problems({layout.WRAPPED: results}) == []
    assert 1e-3 < float(worst(results)["logits_error"])


def test_equal_weights_are_held_once(tiny_copy: Callable[[], Path], answers: ReferenceAnswers) -> None:
    """The program reads the original's own tensors, but for the one that differs from it: that stays as it is."""
    folder = tiny_copy()
    path = folder / layout.WRAPPED / layout.PROGRAM
    program = torch.export.load(path)
    changed = "model.model.layers.1.mlp.down_proj.weight"
    program.state_dict[changed].data[3, 5] += 0.05
    torch.export.save(program, path)
    runtime = found(folder)[layout.WRAPPED].open(answers.reference)
    assert isinstance(runtime, Torch)
    own = {f"model.{name}": p for name, p in answers.reference.model.named_parameters(remove_duplicate=False)}
    held = dict(runtime.module.named_parameters(remove_duplicate=False))
    assert [name for name in held if held[name].data_ptr() != own[name].data_ptr()] == [changed]
    assert (held[changed] - own[changed]).abs().max() > 0.04


def frozen_batch_axis(model: onnx.ModelProto) -> None:
    """The batch of every input and output becomes the number 1."""
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 1


def off_by_one_cache_position(model: onnx.ModelProto) -> None:
    """Everything is written one slot too far; a lowered graph computes all it knows of slots from there."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int64), "one"))
    lowered = any(node.op_type == "GroupQueryAttention" for node in model.graph.node)
    for node in model.graph.node:
        if lowered or node.op_type == "TensorScatter":
            node.input[:] = ["moved" if name == "cache_position" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["cache_position", "one"], ["moved"]))


def dropped_causal_offset(model: onnx.ModelProto) -> None:
    """Attention loses its lengths, as in TensorRT's parser: new token i sees the first i + 1 slots. Lowered, where
    lengths also say what is written, it loses all but the last two slots."""
    for node in model.graph.node:
        if node.op_type == "Attention":
            del node.input[3:]
        if node.op_type == "GroupQueryAttention":
            node.attribute.append(onnx.helper.make_attribute("local_window_size", 2))


def changed_weight(model: onnx.ModelProto) -> None:
    """One value of one matrix in the last layer, by 0.05."""
    matrices = [t for t in model.graph.initializer if "layers.1.mlp.down_proj" in t.name]
    values = onnx.numpy_helper.to_array(matrices[0]).copy()
    values[3, 5] += 0.05
    matrices[0].CopyFrom(onnx.numpy_helper.from_array(values, matrices[0].name))


def swapped_key_and_value(model: onnx.ModelProto) -> None:
    """The last layer's present key comes out under the value's name, and the other way round."""
    swap = {"present.1.key": "present.1.value", "present.1.value": "present.1.key"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [swap.get(name, name) for name in names]


def poisoned(model: onnx.ModelProto, output: str, value: float, condition: list[onnx.NodeProto]) -> None:
    """The output becomes `value` where the last result of `condition`, called "bad", is true."""
    for node in model.graph.node:
        node.output[:] = [f"sound.{name}" if name == output else name for name in node.output]
    kind = next(v.type.tensor_type.elem_type for v in model.graph.output if v.name == output)
    kind = onnx.helper.tensor_dtype_to_np_dtype(kind)
    constants = {"poison": np.array(value, kind), "0": np.array([0]), "1": np.array([1]), "7": np.array([7])}
    constants |= {"shape": np.array([-1, 1, 1]), "axes": np.array([1, 2, 3]), "axis": np.array(0)}
    known = {t.name for t in model.graph.initializer}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, f"bad.{name}") for name, array in constants.items() if name not in known
    )
    where = onnx.helper.make_node("Where", ["bad", "bad.poison", f"sound.{output}"], [output])
    model.graph.node.extend([*condition, where])


def node(op: str, inputs: list[str], output: str) -> onnx.NodeProto:
    """A node of standard ONNX."""
    return onnx.helper.make_node(op, inputs, [output])


def row(number: int) -> list[onnx.NodeProto]:
    """True in one row of the batch: [batch, 1, 1]."""
    return [
        node("Mul", ["cache_position", "bad.0"], "bad.zeros"),
        node("Add", ["bad.zeros", "bad.1"], "bad.ones"),
        node("CumSum", ["bad.ones", "bad.axis"], "bad.numbers"),
        node("Equal", ["bad.numbers", f"bad.{number}"], "bad.flat"),
        node("Reshape", ["bad.flat", "bad.shape"], "bad"),
    ]


def nan_in_the_first_row(model: onnx.ModelProto) -> None:
    """All logits of row 0, beside sound rows."""
    poisoned(model, "logits", np.nan, row(1))


def nan_in_a_middle_step(model: onnx.ModelProto) -> None:
    """Only where a step begins at slot 7: the second chunk, the second token of a decode."""
    at_slot = [
        node("Equal", ["cache_position", "bad.7"], "bad.flat"),
        node("Reshape", ["bad.flat", "bad.shape"], "bad"),
    ]
    poisoned(model, "logits", np.nan, at_slot)


def infinity_in_one_logit(model: onnx.ModelProto) -> None:
    """The largest logit of each row becomes infinite: the greedy text stays the same."""
    best = [node("ReduceMax", ["sound.logits"], "bad.best"), node("Equal", ["sound.logits", "bad.best"], "bad")]
    poisoned(model, "logits", np.inf, best)


def nan_in_one_head_of_the_first_layer(model: onnx.ModelProto) -> None:
    """The key of head 0 at each row's first new slot, after attention has read it: no logit shows it in that step."""
    heads, slots = np.arange(2).reshape(1, 2, 1, 1), np.arange(64).reshape(1, 1, 64, 1)
    for name, array in {"heads": heads, "slots": slots}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, f"bad.{name}"))
    first = [
        node("Unsqueeze", ["cache_position", "bad.axes"], "bad.position"),
        node("Equal", ["bad.slots", "bad.position"], "bad.slot"),
        node("Less", ["bad.heads", "bad.1"], "bad.head"),
        node("And", ["bad.slot", "bad.head"], "bad"),
    ]
    poisoned(model, "present.0.key", np.nan, first)


DAMAGES: dict[Callable[[onnx.ModelProto], None], tuple[set[str], str]] = {
    # damage -> the cases that must fail at least, and what their failures must name
    frozen_batch_axis: ({"contract", "ragged prefill", "largest batch"}, "input_ids is [1, sequence]"),
    off_by_one_cache_position: ({"one token", "decode", "last slot", "non-zero start"}, "past_key_values.0.key, row 0"),
    dropped_causal_offset: ({"decode", "chunked prefill", "non-zero start", "ragged chunks"}, "logits, step 1, row 0"),
    changed_weight: ({"prefill", "decode", "last slot", "ragged chunks"}, "logits, step 0, row 0"),
    swapped_key_and_value: ({"prefill", "decode", "last slot"}, "past_key_values.1."),
    nan_in_the_first_row: ({"prefill", "ragged prefill", GREEDY_BATCH}, "logits, step 0, row 0 is not finite"),
    nan_in_a_middle_step: ({"decode", "chunked prefill"}, "logits, step 1, row 0 is not finite"),
    infinity_in_one_logit: ({"one token", "ragged decode", GREEDY_BATCH}, "logits, step 0, row 0 is not finite"),
    nan_in_one_head_of_the_first_layer: (
        {"one token", "prefill", "ragged prefill"},
        "past_key_values.0.key, row 0 is not finite",
    ),
}


@pytest.mark.parametrize("artifact", [layout.ONNX, layout.SIMPLIFIED, layout.ENGINE])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_caught_and_named(
    tiny_copy: Callable[[], Path], answers: ReferenceAnswers, artifact: str, damage: Callable[[onnx.ModelProto], None]
) -> None:
    """The damaged artifact fails in the cases that the damage touches, with the tensor's name in the failure."""
    folder = tiny_copy()
    path = folder / artifact / layout.MODEL
    model = onnx.load(path)
    damage(model)
    onnx.save(model, path)
    failed = {case: result.failures for case, result in run(artifact, folder, answers).items() if result.failures}
    cases, named = DAMAGES[damage]
    assert cases <= failed.keys()
    assert any(named in failure for failures in failed.values() for failure in failures)


def test_structure_alone_tells_a_lost_offset_and_a_lost_alias(tiny_copy: Callable[[], Path]) -> None:
    """What the numbers show, the contract's inspection of a portable graph names by node and by output."""
    folder = tiny_copy()
    path = folder / layout.ONNX / layout.MODEL
    model = onnx.load(path)
    dropped_causal_offset(model)
    swapped_key_and_value(model)
    onnx.save(model, path)
    findings = found(folder)[layout.ONNX].findings()
    assert sum("is_causal=1, lengths=False, mask=False" in finding for finding in findings) == 2
    assert sum("not a TensorScatter into past_key_values.1" in finding for finding in findings) == 2


def test_a_damaged_program_is_caught(tiny_copy: Callable[[], Path], answers: ReferenceAnswers) -> None:
    """The wrapped artifact too: its batch frozen at 2 and one weight changed."""
    folder = tiny_copy()
    contract = GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)
    model = loading.load(section(Model, folder), folder)
    decoder.cache_shapes(model, section(Cache, folder).size)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] += 0.05
    tokens = {t.name: torch.ones(t.sized(batch=2, sequence=3), dtype=getattr(torch, t.dtype)) for t in contract.inputs}
    first, past = list(tokens.values())[:4], list(tokens.values())[4:]
    sequence = torch.export.Dim("sequence", min=1, max=32)
    shapes: tuple[object, ...] = ({1: sequence}, {1: sequence}, {1: sequence}, {}, [{} for _ in past])
    wrapped = decoder.Decoder(model, "last")
    with torch.no_grad():  # as wrap does: without the subgraph that the rotary embedding's no_grad makes, and stacks
        program = torch.export.export(wrapped, (*first, past), dynamic_shapes=shapes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # they would be a pickle in the file, which is refused
    torch.export.save(program, folder / layout.WRAPPED / layout.PROGRAM)
    failed = {c: r.failures for c, r in run(layout.WRAPPED, folder, answers).items() if r.failures}
    assert any("input_ids is [2, sequence], declared is [batch, sequence]" in f for f in failed["contract"]), failed
    assert any("logits" in f for f in failed["an idle row"])


def test_nan_is_the_worst_figure_and_fails_its_gate() -> None:
    """It exceeds every gate, stays the worst whatever comes before or after it, and can be written as JSON."""
    results = {name: Result() for name in "abc"}
    for result, value in zip(results.values(), (0.5, float("nan"), 2.0), strict=True):
        result.gate("kl", [(value, "logits")], Limit(1.0, "verify.gates.kl"))
    assert [bool(result.failures) for result in results.values()] == [False, True, True]
    assert json.loads(json.dumps(worst(results), allow_nan=False)) == {"kl": "nan"}


def test_numbers_that_are_not_finite_are_said_once() -> None:
    """The first artifact, case and tensor of them, how many more there are, and what to choose; the rest by itself."""
    results: dict[str, dict[str, Result]] = {
        a: {c: Result() for c in ("prefill", "decode")} for a in ("wrapped", "onnx")
    }
    for cases in results.values():
        for result in cases.values():
            result.gate("kl", [(float("nan"), "logits, step 0, row 0")], Limit(1.0, "verify.gates.kl"))
    results["onnx"]["contract"] = Result(failures=["input_ids is missing"])
    first, second = problems(results)
    assert (first.what, first.where) == (
        "logits, step 0, row 0 is not finite; 3 more cases have NaN or infinity too",
        "artifact wrapped, case prefill",
    )
    assert "precision=bf16 or fp32" in first.fix
    assert second.what == "input_ids is missing"


def test_an_engine_may_be_built_for_less_than_the_axes(tmp_path: Path) -> None:
    """Profiles of batch 1 on axes of batch 4: the engine is proven at the sizes that it takes."""
    build_once(tmp_path, ["profile=single", "profile.prefill.sequence.opt=8", "profile.prefill.sequence.max=16"])
    contract = GraphContract.load(tmp_path / layout.WRAPPED / layout.CONTRACT)
    answers = ReferenceAnswers(Reference(loading.load(section(Model, tmp_path), tmp_path)), contract, seed=0)
    assert problems({layout.ENGINE: run(layout.ENGINE, tmp_path, answers)}) == []


def test_gates_behind_quantized_weights(tiny_copy: Callable[[], Path], answers: ReferenceAnswers) -> None:
    """A model in quantized/ gives the engine the gates of verify.quantized_gates, and no earlier artifact. Failures
    name the section."""
    folder = tiny_copy()
    options = section(Verify, folder)
    options.quantized_gates.logits_error = 0.0
    assert {gates_of(artifact, options)[0].logits_error for artifact in found(folder).values()} == {5e-4}
    (folder / layout.QUANTIZED).mkdir(exist_ok=True)
    (folder / layout.QUANTIZED / layout.MODEL).touch()
    groups = {name: gates_of(artifact, options)[1] for name, artifact in found(folder).items()}
    assert groups.pop("quantized") == groups.pop("engine") == "verify.quantized_gates"
    assert groups == dict.fromkeys(("wrapped", "onnx", "simplified"), "verify.gates")
    gates, group = gates_of(found(folder)[layout.ENGINE], options)
    assert (gates.logits_error, gates.kl, group) == (0.0, 1e-7, "verify.quantized_gates")
    case = Case("one token", (0,), ((1,),))
    bare = ReferenceAnswers(
        answers.reference, found(folder)[layout.ENGINE].contract, seed=0
    )  # of which no row may be further off
    failures = run_case(case, open_engine(folder / layout.ENGINE), bare, limits(gates, group)).failures
    assert [failure.split(", ")[-1] for failure in failures] == ["verify.quantized_gates.logits_error is 0"]


def wide_scales(model: onnx.ModelProto) -> None:
    """Make the first layer's values four times as coarse: the kernel writes and reads them alike."""
    (scales,) = (t for t in model.graph.initializer if t.name == "past_key_values.0.value.scale.flat")
    scales.CopyFrom(onnx.numpy_helper.from_array(4 * onnx.numpy_helper.to_array(scales), scales.name))


def test_a_quantized_cache_is_compared_with_the_original(tmp_path: Path, answers: ReferenceAnswers) -> None:
    """The portable graph and the engine pass the gates of its type, text included, and are as far off as each other:
    what they do is what the scales cost. A wrong scale in the engine is found."""
    contract = build_once(tmp_path, ["cache.dtype=int8"])
    options = section(Verify, tmp_path)
    gates = options.cache_gates.int8
    gates.cache_error = 0.2  # what this model keeps; the wider gate would hide the damage below
    gates.top1 = 0.95  # random weights: close calls
    own = {artifact.name: artifact for artifact in artifacts(tmp_path, contract)}
    text = np.random.default_rng(0).integers(0, 512, (32, 30)).tolist()  # perplexity of a few tokens would be chance
    proof = Proof(answers, [[1, 2, 3, 4, 5], [6, 7, 8]], text, options)
    found = {
        name: verify_artifact(own[name], proof, None, all_text=False) for name in (layout.QUANTIZED, layout.ENGINE)
    }
    assert {name: problems({name: results}) for name, results in found.items()} == {name: [] for name in found}
    errors = [worst(results)["cache_error"] for results in found.values()]
    assert 1e-3 < float(errors[0]) == pytest.approx(float(errors[1]), rel=0.05)
    path = tmp_path / layout.ENGINE / layout.MODEL
    model = onnx.load(path, load_external_data=False)
    wide_scales(model)
    onnx.save(model, path)
    case = Case("prefill", (0,), ((10,),))
    held = with_cache(limits(options.gates), own[layout.ENGINE].contract, options.cache_gates)
    (failure, *_) = run_case(case, open_engine(path.parent), answers, held).failures
    assert "verify.cache_gates.int8" in failure


@pytest.mark.parametrize("rows", [4, 2, 1])
def test_greedy_batches(tiny: tuple[Path, GraphContract], rows: int) -> None:
    """Every prompt alone, cut to the longest prefill, and as many in one batch as it takes."""
    contract = replace(tiny[1], axes={"batch": rows, "sequence": 32})
    runtime = replace(found(tiny[0])[layout.SIMPLIFIED], contract=contract).open()
    batches = greedy_batches([[1] * 10, [2] * 90, [3]], runtime, 16)
    assert list(batches) == ["greedy 0", "greedy 1", "greedy 2", "greedy ragged batch"]
    assert [[len(prompt) for prompt in batch] for batch in batches.values()] == [[10], [32], [1], [10, 32, 1][:rows]]


def test_a_text_of_one_word_fails(tiny_copy: Callable[[], Path], answers: ReferenceAnswers) -> None:
    """An engine whose last norm is lost says token 0 for ever: the failure names the row and the gate."""
    folder = tiny_copy()
    path = folder / layout.ENGINE / layout.MODEL
    model = onnx.load(path)
    (norm,) = [t for t in model.graph.initializer if t.name.endswith("model.norm.weight")]
    norm.CopyFrom(onnx.numpy_helper.from_array(np.zeros(norm.dims, np.float32), norm.name))
    onnx.save(model, path)
    runtime, options = open_engine(folder / layout.ENGINE), section(Verify, folder)
    options.quality.added_repetition = 0.5
    held = {**limits(options.gates), **limits(options.quality, QUALITY)}
    result = run_greedy([[1, 2, 3]], 60, runtime, answers, held)
    own = repetition(answers.reference.generate([1, 2, 3], 60))
    assert own < 0.4
    assert result.figures["repetition"] == pytest.approx(56 / 57)
    assert result.figures["added_repetition"] == pytest.approx(56 / 57 - own)
    assert "in the text of row 0, the original's own has" in result.failures[1]
    assert "verify.quality.added_repetition is 0.5" in result.failures[1]


def test_a_missed_gate_fails_the_stage(tiny_copy: Callable[[], Path]) -> None:
    """As a command: exit code 1, a report with passed false, artifact, case and tensor named, no traceback; and a
    file that is no model at all is a failure of its artifact, not a crash."""
    folder = tiny_copy()
    path = folder / layout.SIMPLIFIED / layout.MODEL
    model = onnx.load(path)
    changed_weight(model)
    onnx.save(model, path)
    (folder / layout.ONNX / layout.MODEL).write_bytes(b"no model")
    command = [sys.executable, "-m", "pipeline.verify"]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "where: artifact simplified, case prefill" in done.stderr
    report = json.loads((folder / layout.VERIFY).read_text())
    assert not report["passed"]
    passed = {name: all(c.get("passed", True) for c in cases.values()) for name, cases in report["artifacts"].items()}
    assert passed == {"wrapped": True, "onnx": False, "simplified": False, "engine": True}
    assert json.loads((folder / layout.ACCURACY).read_text())["engine"]["greedy_agreement"] == 1
    assert report["limits"]["engine"]["kl"] == {"value": report["gates"]["kl"], "key": "verify.gates.kl"}
    assert report["limits"]["engine"]["mean_kl"]["key"] == "verify.quality.kl"
    assert report["limits"]["onnx"] == {}
    assert [len(each["text"].split()) for each in report["texts"]] == [section(Verify, folder).greedy_tokens] * 3
    assert "original" not in report["texts"][0]  # it is the same


def test_an_error_of_our_own_keeps_its_traceback(
    tiny: tuple[Path, GraphContract], answers: ReferenceAnswers, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a failure of its case, with the traceback in the report, and printed as the bug that it is; what a runtime
    raises over a damaged file is in the report alone."""
    artifact, options = found(tiny[0])[layout.SIMPLIFIED], section(Verify, tiny[0])
    options.gates.kl = None  # type: ignore[assignment]
    results = verify_artifact(artifact, Proof(answers, [[1, 2]], [], options), None, all_text=False)
    assert "TypeError" in results["prefill"].traceback
    assert any("TypeError" in line for line in results["prefill"].as_dict()["traceback"])  # type: ignore[attr-defined]
    assert not results[GREEDY_BATCH].failures
    assert "Traceback" in capsys.readouterr().err
    folder = tiny[0].parent / "damaged"
    shutil.copytree(tiny[0], folder, symlinks=True)
    (folder / layout.SIMPLIFIED / layout.MODEL).write_bytes(b"no model")
    damaged = verify_artifact(found(folder)[layout.SIMPLIFIED], Proof(answers, [], [], options), None, False)
    assert damaged["contract"].failures[0].startswith("does not run: ")
    assert damaged["contract"].traceback
    assert "Traceback" not in capsys.readouterr().err


def test_behind_rounded_activations_the_fix_names_their_key(tiny_copy: Callable[[], Path]) -> None:
    """An engine that misses a gate where quantized/ may pass: what rounds its inputs can be switched off."""
    folder = tiny_copy()
    path = folder / layout.ENGINE / layout.ENGINE_INFO
    info = json.loads(path.read_text())
    (folder / layout.QUANTIZED).mkdir(exist_ok=True)
    (folder / layout.QUANTIZED / layout.MODEL).touch()
    for rounds in (False, True):
        path.write_text(json.dumps(info | {"int8_activations": rounds}))
        fixes = {name: artifact.fix() for name, artifact in found(folder).items()}
        assert bool(fixes.pop(layout.ENGINE)) == rounds
        assert set(fixes.values()) == {""}
    fix = found(folder)[layout.ENGINE].fix()
    (problem,) = problems({layout.ENGINE: {"prefill": Result(failures=["kl is 1"])}}, {layout.ENGINE: fix})
    assert problem.fix.startswith("set engine.int8_activations=false, so that activations are not rounded to 8 bits; ")


def test_cases_that_a_profile_leaves_out_are_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, with the reason; on the command line too."""
    build_once(tmp_path, ["profile=single", "profile.prefill.sequence.opt=8", "profile.prefill.sequence.max=16"])
    monkeypatch.chdir(tmp_path)
    verify.main()
    engine = json.loads((tmp_path / layout.VERIFY).read_text())["artifacts"][layout.ENGINE]
    assert engine["ragged prefill"] == {"not_run": "needs 2 rows, the profiles take 1"}
    assert "engine: case not run: ragged prefill: needs 2 rows, the profiles take 1" in capsys.readouterr().out
    assert len(engine["greedy 0"]) > 2  # the text of each prompt


def test_an_engine_that_says_nothing_sound_of_itself_is_a_failure(
    tiny_copy: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """engine.json is damaged: the other artifacts are proven all the same, and the report is written."""
    folder = tiny_copy()
    (folder / layout.ENGINE / layout.ENGINE_INFO).write_text("{")
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="this is not JSON"):
        verify.main()
    proven = json.loads((folder / layout.VERIFY).read_text())["artifacts"]
    assert list(proven) == [layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED, layout.ENGINE]
    assert "this is not JSON" in proven[layout.ENGINE]["contract"]["failures"][0]
    assert all(case.get("passed", True) for case in proven[layout.SIMPLIFIED].values())
    assert proven[layout.SIMPLIFIED].keys() >= {"greedy 0", GREEDY_BATCH}  # now the last of its weights


def test_remarks_on_a_proof_that_passed() -> None:
    """Cases left out, gates widened and caches compared in part are said once, with the artifacts that they are true
    of."""
    left, wide = Result(not_run="no profile takes it"), Result(widened={"kl": 0.2})
    assert remarks({"onnx": {"a": left, "b": wide}, "engine": {"a": left, "b": Result(dropped=3)}}) == {
        "case not run: a: no profile takes it": ["onnx", "engine"],
        "1 case passes only by verify.headroom": ["onnx"],
        "1 case compares caches of sliding windows only on the tokens that they keep": ["engine"],
    }


def one_slot_late(model: onnx.ModelProto) -> None:
    """Every token is written one slot after its own."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int32), "bad.one"))
    fused = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    (last,) = {node.input[5] for node in fused}
    for node in fused:
        node.input[5] = "bad.last"
    model.graph.node.insert(
        list(model.graph.node).index(fused[0]), onnx.helper.make_node("Add", [last, "bad.one"], ["bad.last"])
    )


def test_an_engine_for_clients(client: tuple[Path, GraphContract], answers: ReferenceAnswers, tmp_path: Path) -> None:
    """It passes as ours does, all 13 cases; and in onnxruntime-genai those that this can express, where it is. Damage
    shows there too."""
    results = run(layout.ENGINE, client[0], answers)
    assert problems({layout.ENGINE: results}) == []
    assert not [case for case, result in results.items() if result.not_run]
    why = genai.why_unavailable()
    if why is not None:
        assert run(layout.CLIENT, client[0], answers).keys() == {"contract"}
        pytest.skip(why)
    results = run(layout.CLIENT, client[0], answers)
    assert problems({layout.CLIENT: results}) == []
    ran = {case for case, result in results.items() if not result.not_run}
    assert {"chunked prefill", "ragged prefill", "ragged decode", "largest batch", GREEDY_BATCH} <= ran
    assert not {"ragged chunks", "an idle row", "last slot"} & ran
    copy = Path(shutil.copytree(client[0], tmp_path / "point", symlinks=True))
    path = copy / layout.ENGINE / layout.MODEL
    model = onnx.load(path, load_external_data=False)
    one_slot_late(model)
    onnx.save(model, path)
    (copy / layout.ENGINE / "generation_config.json").write_text('{"eos_token_id": 9}')
    results = run(layout.CLIENT, copy, answers)
    failed = {case for case, result in results.items() if result.failures}
    assert {"contract", "ragged decode"} <= failed
    assert results["contract"].failures == ["it ends at [2], the model at [9]"]
