"""build: the form of the graph for each provider; those for GPUs are compared on the CPU too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline import engine
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Engine, Profile, section
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine, why_unavailable
from pipeline.runtime.session import Session
from tests.support.gpu import needs
from tests.support.points import build as build_point

Point = tuple[Path, GraphContract]
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def build(point: Path, out: Path, provider: str) -> Path:
    """The engine of a point's model for another provider."""
    out.mkdir()
    options = replace(section(Engine, point), provider=provider, lower=provider != TENSORRT)
    engine.build(point / layout.WRAPPED, point / layout.SIMPLIFIED, options, section(Profile, point), out)
    return out


def operators(folder: Path) -> set[str]:
    """Of an engine's graph."""
    return {node.op_type for node in onnx.load(folder / layout.MODEL, load_external_data=False).graph.node}


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_forms_for_gpus_compute_the_same(tiny: Point, tmp_path: Path, provider: str) -> None:
    """The same file on the CPU, against the portable graph: a prompt, a ragged chunk, decode."""
    point, contract = tiny
    folder = build(point, tmp_path / "engine", provider)
    steps = ([[1, 2, 3, 4], [5]], [[6], [7, 8, 9]], [[10], [11]])
    results = []
    for model in (point / layout.SIMPLIFIED, folder):
        session = OnnxRuntime(model / layout.MODEL, contract, Profiles.of_axes(contract)).session(2)
        results.append([session.step(tokens) for tokens in steps])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_cuda_keeps_the_standard_attention(tiny: Point, tmp_path: Path) -> None:
    """GroupQueryAttention's CUDA kernel takes no ragged chunks on a cache in use; norms are fused as on the CPU."""
    found = operators(build(tiny[0], tmp_path / "engine", CUDA))
    assert {"Attention", "TensorScatter", "SkipSimplifiedLayerNormalization"} <= found
    assert "GroupQueryAttention" not in found
    assert "Shape" not in found  # what the CPU hands to the GPU keeps a step from being captured


def test_the_tensorrt_provider_gets_masks_and_shapes(tiny: Point, tmp_path: Path) -> None:
    """Its parser drops the lengths of attention; one profile covers prefill and decode and is tuned for decode."""
    folder = build(tiny[0], tmp_path / "engine", TENSORRT)
    graph = onnx.load(folder / layout.MODEL, load_external_data=False).graph
    attentions = [node for node in graph.node if node.op_type == "Attention"]
    assert [(bool(node.input[3]), len(node.input)) for node in attentions] == [(True, 4)] * 2
    assert {node.domain for node in graph.node} == {""}
    options = json.loads((folder / layout.ENGINE_INFO).read_text())["provider_options"]
    shapes = {end: options[f"trt_profile_{end}_shapes"].split(",") for end in ("min", "opt", "max")}
    assert [shapes[end][0] for end in shapes] == ["input_ids:1x1", "input_ids:1x1", "input_ids:4x32"]
    assert shapes["max"][-1] == "past_key_values.1.value:4x2x64x16"


@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_without_a_gpu_the_reason_is_said(
    tiny: Point, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is there; what runs it is not, and ONNX Runtime does not fall to the CPU in silence."""
    monkeypatch.setattr("pipeline.core.hardware.gpus", list)
    folder = build(tiny[0], tmp_path / "engine", provider)
    problem = why_unavailable(folder)
    assert problem is not None
    assert provider in problem.what
    with pytest.raises(UserError, match=provider):
        open_engine(folder)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize("kind", ["onnxruntime_cuda", "onnxruntime_tensorrt"])
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path, kind: str, precision: str) -> None:
    """One buffer for past and present on the device, and the logits and caches of the portable graph on the CPU; with
    CUDA, decode is a replayed graph."""
    needs({"onnxruntime_cuda": CUDA, "onnxruntime_tensorrt": TENSORRT}[kind])
    try:
        contract = build_point(tmp_path, [f"engine={kind}", f"precision={precision}"])
        runtime = open_engine(tmp_path / layout.ENGINE)
    except UserError as error:
        if kind == "onnxruntime_cuda":
            raise
        pytest.skip(error.problems[0].what)  # TensorRT is a package of its own
    assert isinstance(runtime, OnnxRuntime)
    assert runtime.captures == (kind == "onnxruntime_cuda")
    portable = OnnxRuntime(tmp_path / layout.SIMPLIFIED / layout.MODEL, contract, Profiles.of_axes(contract))
    sessions = [runtime.session(2), portable.session(2)]
    tolerance = {"fp16": 0.03, "fp32": 1e-3}[precision]
    chunks = [
        [[1, 2, 3, 4], [5]],
        [[6], [7, 8, 9]],
        *([[10 + i], [20 + i]] for i in range(4)),
        [[], [3]],
        [[7, 8], [9]],
    ]
    for tokens in chunks:
        gpu, cpu = (session.step(tokens) for session in sessions)
        for row, new in enumerate(tokens):
            if new:
                np.testing.assert_allclose(gpu[row], cpu[row], atol=tolerance)
    for gpu, cpu in zip(*(session.read_caches() for session in sessions), strict=True):
        for row, used in enumerate(sessions[0].lengths):
            np.testing.assert_allclose(gpu[row, :, :used], cpu[row, :, :used], atol=tolerance)


@pytest.mark.gpu
def test_sessions_do_not_share_a_graph(tmp_path: Path) -> None:
    """Two sessions of one engine, their decode steps interleaved, say what each says alone."""
    needs(CUDA)
    build_point(tmp_path, ["engine=onnxruntime_cuda", "precision=fp16"])
    runtime = open_engine(tmp_path / layout.ENGINE)

    def said(session: Session, first: int) -> list[float]:
        return [float(session.step([[first + i]]).sum()) for i in range(4)]

    alone = [said(runtime.session(1), first) for first in (1, 50)]
    both = [runtime.session(1), runtime.session(1)]
    together = [[float(s.step([[first + i]]).sum()) for s, first in zip(both, (1, 50), strict=True)] for i in range(4)]
    assert [list(column) for column in zip(*together, strict=True)] == alone
