"""What the tests marked `gpu` share: the GPU of this machine."""

import pytest

from pipeline import hardware


def capability() -> str:
    """The first GPU's compute capability; without a GPU the test is skipped (tests/conftest.py says so before)."""
    gpus = hardware.gpus()
    if not gpus:
        pytest.skip("needs an NVIDIA GPU")
    return gpus[0][1]
