"""What the tests marked `gpu` share: the GPU of this machine."""

import pytest

from pipeline.core import hardware
from pipeline.runtime.onnxruntime import obstacle


def capability() -> str:
    """The first GPU's compute capability; without a GPU the test is skipped (tests/conftest.py says so before)."""
    gpus = hardware.gpus()
    if not gpus:
        pytest.skip("needs an NVIDIA GPU")
    return gpus[0][1]


def needs(provider: str) -> None:
    """Skip the test, with the cure, where ONNX Runtime cannot compute with a provider."""
    problem = obstacle(provider)
    if problem is not None:
        pytest.skip(f"{problem.what}: {problem.fix}")
