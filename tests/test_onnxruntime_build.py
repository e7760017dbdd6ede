"""pipeline.onnxruntime_build: the form of the graph for each provider; those for GPUs are compared on the CPU too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline import engine, layout, run_onnxruntime
from pipeline.errors import UserError
from pipeline.run_onnxruntime import OnnxRuntime
from pipeline.runtime import cannot_run, open_engine
from pipeline.session import axes_bounds
from pipeline.signature import Signature
from pipeline.spec import Engine, Profile, section
from tests.gpu import capability

Point = tuple[Path, Signature]
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
    point, signature = tiny
    folder = build(point, tmp_path / "engine", provider)
    steps = ([[1, 2, 3, 4], [5]], [[6], [7, 8, 9]], [[10], [11]])
    results = []
    for model in (point / layout.SIMPLIFIED, folder):
        session = OnnxRuntime(model / layout.MODEL, signature, axes_bounds(signature)).session(2)
        results.append([session.step(tokens) for tokens in steps])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)


def test_cuda_keeps_the_standard_attention(tiny: Point, tmp_path: Path) -> None:
    """GroupQueryAttention's CUDA kernel takes no ragged chunks on a cache in use; norms are fused as on the CPU."""
    found = operators(build(tiny[0], tmp_path / "engine", CUDA))
    assert {"Attention", "TensorScatter", "SkipSimplifiedLayerNormalization"} <= found
    assert "GroupQueryAttention" not in found


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
    monkeypatch.setattr("pipeline.hardware.gpus", list)
    folder = build(tiny[0], tmp_path / "engine", provider)
    reason = cannot_run(folder)
    assert reason is not None
    assert provider in reason
    with pytest.raises(UserError, match=provider):
        open_engine(folder)


@pytest.mark.gpu
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_gpu_agrees_with_the_cpu(tiny: Point, tmp_path: Path, provider: str) -> None:
    """One buffer for past and present on the device, and the same logits and caches."""
    capability()
    problem = run_onnxruntime.obstacle(provider)
    if problem is not None:
        pytest.skip(problem.what)
    sessions = [open_engine(build(tiny[0], tmp_path / "engine", provider)).session(2)]
    sessions.append(open_engine(tiny[0] / layout.ENGINE).session(2))
    for tokens in ([[1, 2, 3, 4], [5]], [[6], [7, 8, 9]], [[10], [11]]):
        gpu, cpu = (session.step(tokens) for session in sessions)
        np.testing.assert_allclose(gpu, cpu, atol=1e-3)
    for gpu, cpu in zip(*(session.fetch() for session in sessions), strict=True):
        for row, used in enumerate(sessions[0].lengths):
            np.testing.assert_allclose(gpu[row, :, :used], cpu[row, :, :used], atol=1e-3)
