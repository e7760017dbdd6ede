"""What the tests marked `gpu` share: the GPU of this machine."""

import pytest

from pipeline.core import hardware
from pipeline.runtime.onnxruntime import why_provider_unavailable


def capability() -> str:
    """The first GPU's compute capability; without a GPU the test is skipped (tests/conftest.py says so before)."""
    gpus = hardware.gpus()
    if not gpus:
        pytest.skip("needs an NVIDIA GPU")
    return gpus[0][1]


def needs(provider: str) -> None:
    """Skip the test, with the fix, where ONNX Runtime cannot compute with a provider."""
    problem = why_provider_unavailable(provider)
    if problem is not None:
        pytest.skip(f"{problem.what}: {problem.fix}")
