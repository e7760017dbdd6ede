"""What verify does with an artifact that another machine is meant to run."""

import contextlib
import json
from pathlib import Path

import pytest

from pipeline import verify
from pipeline.core import layout
from pipeline.runtime.onnxruntime import obstacle
from tests.support.points import build_once


@pytest.mark.parametrize(
    ("engine", "provider"),
    [("onnxruntime_cuda", "CUDAExecutionProvider"), ("onnxruntime_tensorrt", "TensorrtExecutionProvider")],
)
def test_engines_for_a_gpu_are_inspected_where_there_is_none(engine: str, provider: str, tmp_path: Path) -> None:
    """Lowered operators and masks are right in an engine: all before it is proven, and the reason is in the report."""
    why = obstacle(provider)
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
