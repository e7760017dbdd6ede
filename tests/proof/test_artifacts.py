"""artifacts: which ones a point has, which of them run here, and what verify does with those that do not."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import verify
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.files import write_json
from pipeline.proof.artifacts import Artifact, Graph, Quantized, artifacts
from pipeline.runtime.onnxruntime import why_provider_unavailable
from tests.support.points import build_once


@pytest.mark.parametrize(
    ("engine", "provider"),
    [
        ("onnxruntime_cuda", "CUDAExecutionProvider"),
        pytest.param("onnxruntime_tensorrt", "TensorrtExecutionProvider", marks=pytest.mark.slow),
    ],
)
def test_engines_for_a_gpu_are_inspected_where_there_is_none(engine: str, provider: str, tmp_path: Path) -> None:
    """Lowered operators and masks are right in an engine: all before it is proven, and the reason is in the report."""
    why = why_provider_unavailable(provider)
    if why is None:
        pytest.skip("this machine runs it")
    build_once(tmp_path, [f"engine={engine}"])
    with contextlib.chdir(tmp_path):
        verify.main()
    report = json.loads((tmp_path / layout.VERIFY).read_text())
    assert report["passed"]
    assert report["skipped"] == {layout.ENGINE: why.what}
    assert report["artifacts"][layout.ENGINE].keys() == {"contract", "token ids"}
    assert report["artifacts"][layout.SIMPLIFIED].keys() > {"contract", "greedy 0"}


def names(point: Path, contract: GraphContract) -> list[tuple[str, bool]]:
    """A point's artifacts, and whether their weights are quantized."""
    return [(artifact.name, artifact.quantized) for artifact in artifacts(point, contract)]


def test_the_artifacts_of_a_point(tiny_copy: Callable[[], Path], tiny: tuple[Path, GraphContract]) -> None:
    """In the order of the stages; quantized/ where it holds a model, the network where there is a plan, the client
    where the engine is for one."""
    point, contract = tiny_copy(), tiny[1]
    plain = [(name, False) for name in (layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED)]
    assert names(point, contract) == [*plain, (layout.ENGINE, False)]
    (point / layout.ENGINE / layout.GENAI_CONFIG).touch()
    assert names(point, contract) == [*plain, (layout.ENGINE, False), (layout.CLIENT, False)]
    (point / layout.ENGINE / layout.GENAI_CONFIG).unlink()
    (point / layout.QUANTIZED / layout.MODEL).touch()
    (point / layout.ENGINE / layout.PLAN).touch()
    quantized = [(name, True) for name in (layout.QUANTIZED, layout.NETWORK, layout.ENGINE)]
    assert names(point, contract) == [*plain, *quantized]


@pytest.mark.parametrize(
    ("weights", "dtype", "why"),
    [
        ("int8", "float32", None),
        ("nvfp4", "float16", "ONNX Runtime has no CPU kernels for 4-bit floats"),
        ("int8", "bfloat16", "ONNX Runtime has no CPU kernels for bf16"),
    ],
)
def test_graphs_that_onnx_runtime_cannot_run(
    tiny: tuple[Path, GraphContract], tmp_path: Path, weights: str, dtype: str, why: str | None
) -> None:
    """Of quantize.json and the contract alone: nothing is loaded."""
    contract = replace(tiny[1], outputs=tuple(replace(t, dtype=dtype) for t in tiny[1].outputs))
    write_json(tmp_path / layout.QUANTIZED / layout.QUANTIZATION, {"weights": weights})
    assert Quantized(tmp_path, contract, layout.QUANTIZED, True).why_unavailable() == why
    plain = Graph(tmp_path, contract, layout.SIMPLIFIED).why_unavailable()
    assert (plain is None) == (dtype != "bfloat16")


def test_batches_that_each_artifact_accepts(tmp_path: Path) -> None:
    """The engine's profiles; of every other artifact the declared axis."""
    contract = build_once(
        tmp_path, ["profile=single", "profile.prefill.sequence.opt=8", "profile.prefill.sequence.max=16"]
    )
    found: dict[str, Artifact] = {artifact.name: artifact for artifact in artifacts(tmp_path, contract)}
    assert {name: artifact.max_batch() for name, artifact in found.items()} == {
        layout.WRAPPED: 4,
        layout.ONNX: 4,
        layout.SIMPLIFIED: 4,
        layout.ENGINE: 1,
    }
    assert all(artifact.findings() == [] for artifact in found.values())
