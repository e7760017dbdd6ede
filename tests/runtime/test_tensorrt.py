"""tensorrt: plans on the GPU of this machine; without one, that every name it uses is there."""

import ast
import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import engine, verify
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.tables.engines import EngineKind
from pipeline.runtime import tensorrt as run_tensorrt
from pipeline.runtime.device import PycudaDevice
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine, why_unavailable
from tests.support.gpu import capability
from tests.support.points import build
from tests.support.tensorrt import rtx

CLASSES = {  # name in run_tensorrt.py -> class of the module
    "_loader": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
}


def test_every_name_is_there() -> None:
    """Whatever the runtime asks of TensorRT's objects exists in the version that is installed."""
    trt = rtx().trt
    source = ast.parse(Path(run_tensorrt.__file__).read_text(encoding="utf-8"))
    used = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute):
            owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
            if owner in CLASSES:
                used.add((CLASSES[owner], node.attr))
    assert {("ICudaEngine", "get_aliased_input_tensor"), ("IExecutionContext", "execute_async_v3")} <= used
    assert [(owner, name) for owner, name in sorted(used) if not hasattr(getattr(trt, owner), name)] == []


@pytest.fixture(scope="module", params=["fp16", "fp32"])
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """A tiny point whose plan is for this GPU, by TensorRT-RTX where that builds for it, else by TensorRT."""
    here = capability()
    kind = EngineKind.tensorrt_rtx if here in rtx().targets else EngineKind.tensorrt
    target = [f"engine.targets=[{here}]"] if kind is EngineKind.tensorrt_rtx else []
    folder = tmp_path_factory.mktemp("gpu")
    try:
        return folder, build(folder, [f"engine={kind.value}", *target, f"precision={request.param}"], engine)
    except UserError as error:
        pytest.skip(f"no plan for compute capability {here}: {error.problems[0].what}")


@pytest.mark.gpu
def test_a_plan_passes_every_gate(point: tuple[Path, GraphContract]) -> None:
    """verify runs the engine itself, and nothing is skipped."""
    folder, _ = point
    assert why_unavailable(folder / layout.ENGINE) is None
    with contextlib.chdir(folder):
        verify.main()
    report = json.loads((folder / layout.VERIFY).read_text())
    assert report["passed"]
    assert report["skipped"] == {}


@pytest.mark.gpu
def test_decode_is_captured_and_right(point: tuple[Path, GraphContract]) -> None:
    """The third step of one token is a replayed graph; all steps agree with ONNX Runtime's."""
    folder, contract = point
    session = open_engine(folder / layout.ENGINE).session(2)
    model = folder / layout.SIMPLIFIED / layout.MODEL
    truth = OnnxRuntime(model, contract, Profiles.of_axes(contract)).session(2)
    steps = [[[1, 2, 3], [4]], *([[5 + i], [6 + i]] for i in range(4))]
    for step in steps:
        np.testing.assert_allclose(session.step(step), truth.step(step), atol=0.25)
    assert isinstance(session, run_tensorrt.TensorRTSession)
    assert session._decode is not None


@pytest.mark.gpu
def test_pycuda_will_do(point: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same session over pycuda's memory."""
    pytest.importorskip("pycuda.driver", reason="pycuda is not installed: pip install -e '.[tensorrt]'")
    monkeypatch.setattr(run_tensorrt, "open_device", PycudaDevice)
    session = open_engine(point[0] / layout.ENGINE).session(1)
    assert np.isfinite(session.step([[1, 2, 3]])).all()
