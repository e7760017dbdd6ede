"""Plans for real, of tiny models and without a GPU; engine.json; and what is said when building or loading fails."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import bench, engine
from pipeline.backends.tensorrt.build import explain
from pipeline.core import hardware, layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Engine, Profile, Weights, section
from pipeline.generate import Generator
from pipeline.proof.artifacts import artifacts
from pipeline.runtime.open import open_engine, why_unavailable
from tests.support.fakes import fake_nvidia_smi
from tests.support.tensorrt import quantized, rtx

Point = tuple[Path, GraphContract]


def obstacles(point: Path, contract: GraphContract) -> dict[str, str]:
    """The artifacts that no case can be run of, and why."""
    found = {artifact.name: artifact.why_unavailable() for artifact in artifacts(point, contract)}
    return {name: why for name, why in found.items() if why is not None}


def build(point: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Build the engine of a point's model; its engine.json."""
    rtx()
    out.mkdir()
    model = layout.final_model(point)
    engine_options, profile = replace(section(Engine, point), **options), section(Profile, point)
    engine.build(point / layout.WRAPPED, model, engine_options, profile, out)
    info: dict[str, Any] = json.loads((out / layout.ENGINE_INFO).read_text())
    return info


@pytest.fixture(scope="module")
def plan(half: Point, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine folder of the tiny model in fp16, for three generations of GPUs. Not to be changed."""
    out = tmp_path_factory.mktemp("plan") / layout.ENGINE
    build(half[0], out)
    return out


def test_engine_json_says_what_was_built(plan: Path, half: Point) -> None:
    """Who built it for whom; every input and output with its memory; every profile's shapes; what it cost."""
    info = json.loads((plan / layout.ENGINE_INFO).read_text())
    assert (info["kind"], info["version"]) == ("tensorrt_rtx", rtx().version)
    assert info["targets"] == ["8.6", "8.9", "12.0"]
    names = [f"model.layers.{i}.self_attn.Attention" for i in (0, 1)]
    assert info["attention"] == {"form": "lengths", "fused": names, "decomposable": []}
    assert info["inputs"][0] == {"name": "input_ids", "dtype": "int64", "shape": [-1, -1]}
    assert info["outputs"][0] == {"name": "logits", "dtype": "float16", "shape": [-1, 1, 512], "alias": None}
    assert {row["name"]: row["alias"] for row in info["outputs"][1:]} == half[1].aliases
    assert info["shapes"]["decode"]["input_ids"] == [[1, 1], [1, 1], [4, 1]]
    assert info["shapes"]["prefill"]["past_key_values.1.value"] == [[1, 2, 64, 16], [1, 2, 64, 16], [4, 2, 64, 16]]
    assert info["profiles"]["prefill"]["sequence"] == {"min": 1, "opt": 16, "max": 32}
    assert GraphContract.from_dict(info["signature"]) == half[1]
    cost = info["build"]
    assert cost["plan_bytes"] == (plan / layout.PLAN).stat().st_size > cost["weights_bytes"]
    # the parameters, the rotary frequencies in fp32, and the factor on the queries
    assert cost["weights_bytes"] == 2 * 139_584 + 4 * 8 + 2
    assert cost["activation_bytes"] > 0
    assert cost["seconds"] > 0
    assert cost["peak_mb"] > 100


def test_more_gpus_cost_no_more(plan: Path, half: Point, tmp_path: Path) -> None:
    """One plan for one generation is as large as one for three: it is compiled on the GPU that loads it."""
    one = build(half[0], tmp_path / "one", targets=[8.9])
    three = json.loads((plan / layout.ENGINE_INFO).read_text())
    assert one["targets"] == ["8.9"]
    assert abs(one["build"]["plan_bytes"] - three["build"]["plan_bytes"]) < 0.01 * one["build"]["plan_bytes"]


@pytest.mark.slow
def test_other_precisions_build(tiny: Point, half: Point, window: Point, tmp_path: Path) -> None:
    """fp32 and a softcap by decomposed attention, weights of 8 and 4 bits; the contract's type is that of the cache."""
    options = {"kind": section(Engine, half[0]).kind, "targets": [8.9], "provider": None, "lower": False}
    options |= {"int8_activations": False}
    points = {"fp32": tiny[0], "softcap": window[0]}
    for kind in (Weights.int8, Weights.int4):
        folder = quantized(tiny[0], tmp_path / kind.value, kind, symmetric=kind is Weights.int8).parent
        (folder / layout.PARAMS).symlink_to(tiny[0] / layout.PARAMS)
        points[kind.value] = folder
    infos = {name: build(point, tmp_path / f"{name}.engine", **options) for name, point in points.items()}
    assert {name: info["inputs"][4]["dtype"] for name, info in infos.items()} == dict.fromkeys(points, "float32")
    assert {name: len(info["attention"]["decomposable"]) for name, info in infos.items()} == {
        "fp32": 2, "softcap": 0, "int8": 2, "int4": 2
    }  # fmt: skip
    sizes = {name: info["build"]["weights_bytes"] for name, info in infos.items()}
    assert sizes["int4"] < sizes["int8"] < 0.4 * sizes["fp32"]


@pytest.mark.parametrize(("weights", "target"), [(Weights.fp8, 8.9), (Weights.nvfp4, 12.0)])
def test_small_floats_build(half: Point, tmp_path: Path, weights: Weights, target: float) -> None:
    """Weights of 8 and 4 bits in fp16, for the first generation that computes with them."""
    folder = quantized(half[0], tmp_path / weights.value, weights).parent
    (folder / layout.PARAMS).symlink_to(half[0] / layout.PARAMS)
    info = build(folder, tmp_path / "engine", targets=[target])
    plain = build(half[0], tmp_path / "plain", targets=[target])
    assert info["build"]["weights_bytes"] < 0.8 * plain["build"]["weights_bytes"]  # the embedding stays in fp16
    assert info["inputs"][4]["dtype"] == "float16"


def test_a_mask_builds_too(half: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What 10.15 and 10.16 get: the same graph with a mask, and engine.json says so."""
    monkeypatch.setattr("pipeline.runtime.tensorrt_api.TensorRT.lengths", False)
    info = build(half[0], tmp_path / "mask", targets=[8.9])
    assert info["attention"]["form"] == "mask"


def test_an_unknown_gpu_names_the_known(half: Point, tmp_path: Path) -> None:
    """TensorRT-RTX has no Hopper; that is said before anything is parsed."""
    with pytest.raises(UserError, match=r"does not build for compute capability 9.0") as error:
        build(half[0], tmp_path / "out", targets=[9.0])
    assert "8.6, 8.9, 12.0" in error.value.problems[0].fix


def test_a_finding_fails_the_stage(half: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the lengths nothing is built, and every attention is named."""
    monkeypatch.setattr("pipeline.backends.tensorrt.network.restore_attention_lengths", lambda parsed: None)
    with pytest.raises(UserError) as error:
        build(half[0], tmp_path / "out")
    assert [p.what.split()[0] for p in error.value.problems] == [
        f"model.layers.{i}.self_attn.Attention" for i in (0, 0, 1, 1)
    ]
    assert not (tmp_path / "out" / layout.PLAN).exists()


def test_a_builder_that_fails_says_why(
    tiny: Point, half: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 attention that may not be decomposed, past the lint: TensorRT's own words, and what they mean."""
    monkeypatch.setattr("pipeline.backends.tensorrt.network.has_kernel", lambda *_: True)
    monkeypatch.setattr("pipeline.backends.tensorrt.lint.has_kernel", lambda *_: True)
    options = {"kind": section(Engine, half[0]).kind, "targets": [8.9], "provider": None}
    with pytest.raises(UserError) as error:
        build(tiny[0], tmp_path / "out", **options)
    (problem,) = error.value.problems
    assert "no kernel computes this attention" in problem.what
    assert "precision=fp16" in problem.fix


ERROR_HINTS = [
    ("Could not find any implementation for node {ForeignNode[a...b]}.", "ran out of memory", "engine.workspace_gb"),
    ("Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)", "ran out of memory", "engine.workspace_gb"),
    ("Cuda Runtime (cudaError 35: CUDA driver version is insufficient)", "needs a GPU", "engine=tensorrt_rtx"),
    ("input_ids: optimization profile 0 has kMIN > kOPT", "a profile does not fit", "profile.*"),
    ("Error Code 9: something new", "something new", "another engine or precision"),
]


@pytest.mark.parametrize(("said", "means", "fix"), ERROR_HINTS, ids=[means for _, means, _ in ERROR_HINTS])
def test_tensorrts_errors_are_translated(said: str, means: str, fix: str) -> None:
    """Its words stay, and what they mean comes first."""
    problem = explain(["an earlier error", said], "TensorRT 11.0", "engine")
    assert means in problem.what
    assert said in problem.what
    assert fix in problem.fix


def gpu(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Put an nvidia-smi on PATH that knows one GPU."""
    monkeypatch.setenv("PATH", fake_nvidia_smi(folder / "bin", f"echo '{line}'"))
    hardware.gpus.cache_clear()


def refusal(folder: Path) -> str:
    """What is said when the engine is opened."""
    with pytest.raises(UserError) as error:
        open_engine(folder)
    return str(error.value)


def test_a_plan_elsewhere_says_what_it_needs(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, another GPU, another version: both sides are named, and the command that builds it anew."""
    folder = tmp_path / "mine" / layout.ENGINE
    folder.mkdir(parents=True)
    info = json.loads((plan / layout.ENGINE_INFO).read_text())
    (folder / layout.ENGINE_INFO).write_text(json.dumps(info))
    monkeypatch.setattr("pipeline.core.hardware.gpus", list)
    assert "there is no NVIDIA GPU here" in refusal(folder)
    monkeypatch.undo()
    gpu(tmp_path, monkeypatch, "NVIDIA H200, 9.0")
    said = refusal(folder)
    assert "compute capability 8.6, 8.9, 12.0, the GPU here is NVIDIA H200, 9.0" in said
    assert "dvc repro engine@mine" in said
    (tmp_path / "other").mkdir()
    gpu(tmp_path / "other", monkeypatch, "NVIDIA GeForce RTX 4090, 8.9")
    (folder / layout.ENGINE_INFO).write_text(json.dumps(info | {"version": "1.6.0"}))
    said = refusal(folder)
    assert f"built by TensorRT-RTX 1.6.0, here is {rtx().version}" in said


def test_what_cannot_run_is_left_out_with_the_reason(
    plan: Path, half: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_copy: Callable[[], Path]
) -> None:
    """bench reports the reason, verify skips the engine and inspects the rest, generate is a clear error."""
    monkeypatch.setattr("pipeline.core.hardware.gpus", list)
    point = tiny_copy()
    (point / layout.ENGINE / layout.ENGINE_INFO).write_bytes((plan / layout.ENGINE_INFO).read_bytes())
    problem = why_unavailable(point / layout.ENGINE)
    assert problem is not None
    assert "there is no NVIDIA GPU here" in problem.what
    assert obstacles(point, half[1]) == {layout.ENGINE: problem.what}
    with contextlib.chdir(point):
        bench.main()
        assert json.loads(Path(layout.BENCH).read_text(encoding="utf-8")) == {"skipped": problem.what}
        assert json.loads(Path(layout.LATENCY).read_text(encoding="utf-8")) == []
    with pytest.raises(UserError, match="no NVIDIA GPU"):
        Generator.load(point / layout.ENGINE)


def test_bf16_is_not_run_where_it_has_no_kernels(half: Point, plan: Path, tmp_path: Path) -> None:
    """ONNX Runtime on the CPU: the graphs are inspected, the program runs in PyTorch."""
    computed = tuple(replace(tensor, dtype="bfloat16") for tensor in half[1].outputs)
    (tmp_path / layout.ENGINE).symlink_to(plan)
    assert obstacles(tmp_path, replace(half[1], outputs=computed)).keys() == {"onnx", "simplified", "engine"}


def test_floats_of_4_bits_are_run_as_a_network_only(half: Point, plan: Path, tmp_path: Path) -> None:
    """ONNX Runtime has no kernels for them: quantized/ is inspected, TensorRT's network is run."""
    point = quantized(half[0], tmp_path, Weights.nvfp4).parent
    (point / layout.ENGINE).symlink_to(plan)
    (point / layout.QUANTIZED / layout.QUANTIZATION).write_text(json.dumps({"weights": "nvfp4"}))
    skipped = obstacles(point, half[1])
    assert skipped.keys() == {"quantized", "engine"}
    assert "4-bit floats" in skipped["quantized"]
    (graph,) = [artifact for artifact in artifacts(point, half[1]) if artifact.name == layout.QUANTIZED]
    assert graph.findings() == []
