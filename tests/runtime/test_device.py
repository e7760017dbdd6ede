"""device: memory of the GPU, by PyTorch and by pycuda."""

import importlib.util

import numpy as np
import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.runtime import device
from pipeline.runtime.device import Device, PycudaDevice, TorchDevice

KINDS = {
    TorchDevice: (torch.cuda.is_available(), "this PyTorch reaches no GPU"),
    PycudaDevice: (importlib.util.find_spec("pycuda") is not None, "pycuda is not installed"),
}


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def gpu(request: pytest.FixtureRequest) -> Device:
    """The GPU, by each package that reaches it."""
    there, reason = KINDS[request.param]
    if not there:
        pytest.skip(reason)
    found: Device = request.param()
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["int64", "float32", "float16", "bfloat16"])
def test_arrays_come_back_as_they_went(gpu: Device, dtype: str) -> None:
    """Every type of the contract; memory starts as zeros, and what is not written stays."""
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    memory = gpu.allocate(2 * values.nbytes)
    gpu.upload(memory, values)
    np.testing.assert_array_equal(gpu.download(memory, values.shape, dtype), values)
    np.testing.assert_array_equal(gpu.download(memory, (48,), dtype)[24:], np.zeros(24, dtype))
    assert memory.address % 256 == 0  # TensorRT asks for that


@pytest.mark.gpu
def test_captured_work_runs_when_it_is_replayed() -> None:
    """A graph does the same work again, on what lies there then; recording it does nothing."""
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch reaches no GPU, and pycuda has no graphs")
    gpu = TorchDevice()
    memory = gpu.allocate(8)
    gpu.upload(memory, np.array([1], np.int64))
    numbers = memory.owner.view(torch.int64)

    def double() -> None:
        numbers.mul_(2)

    again = gpu.captured(double)
    for expected in (2, 4):
        again()
        assert gpu.download(memory, (1,), "int64").tolist() == [expected]


def test_without_a_way_to_the_gpu_the_error_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch for the CPU and no pycuda: either would do."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="neither PyTorch nor pycuda") as error:
        device.open_device()
    assert "pip install pycuda" in error.value.problems[0].fix
