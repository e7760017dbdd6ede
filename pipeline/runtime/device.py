"""Memory and a stream of one NVIDIA GPU, by PyTorch or pycuda.

    device = open_device()                  # UserError where neither is available
    memory = device.allocate(nbytes)        # memory.address goes to TensorRT
    device.upload(memory, array)            # runs in the order of the stream, like all other work
    device.download(memory, shape, dtype)   # waits for it

PyTorch is preferred: it is installed anyway, and unlike pycuda it captures CUDA graphs.
"""

import atexit
import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  # numpy knows bfloat16 once it is imported
import numpy as np

from pipeline.core.arrays import Array
from pipeline.core.errors import Problem, UserError


@dataclass(frozen=True)
class Memory:
    """`nbytes` bytes on the GPU at `address`; freed with this object."""

    address: int
    nbytes: int
    owner: Any


class Device(ABC):
    """One GPU and one stream on it; `stream` is its cudaStream_t as a number."""

    stream: int

    @abstractmethod
    def allocate(self, nbytes: int) -> Memory:
        """Allocate bytes, all zero."""

    def array(self, shape: tuple[int, ...], dtype: str) -> Memory:
        """Allocate zeros for an array; dtype: NumPy's name of its type."""
        return self.allocate(math.prod(shape) * np.dtype(dtype).itemsize)

    @abstractmethod
    def upload(self, memory: Memory, array: Array) -> None:
        """Copy an array to the start of the memory."""

    @abstractmethod
    def copy(self, source: Memory, target: Memory) -> None:
        """Copy all bytes of the source to a target of the same size; it may be recorded by `captured`."""

    @abstractmethod
    def _bytes(self, memory: Memory, nbytes: int) -> Array:
        """Copy the first bytes of the memory to the host, as uint8."""

    def download(self, memory: Memory, shape: tuple[int, ...], dtype: str) -> Array:
        """Copy an array from the start of the memory to the host, once all earlier work is done."""
        kind = np.dtype(dtype)
        return self._bytes(memory, math.prod(shape) * kind.itemsize).view(kind).reshape(shape)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work as a CUDA graph, which one call starts; the work itself where that is not supported."""
        return work


class TorchDevice(Device):
    """A Device by PyTorch."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch  # its streams have no type annotations
        self._stream = self._torch.cuda.Stream()
        self.stream = int(self._stream.cuda_stream)

    def allocate(self, nbytes: int) -> Memory:
        with self._torch.cuda.stream(self._stream):
            owner = self._torch.zeros(nbytes, dtype=self._torch.uint8, device="cuda")
        return Memory(owner.data_ptr(), nbytes, owner)

    def upload(self, memory: Memory, array: Array) -> None:
        flat = self._torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        with self._torch.cuda.stream(self._stream):
            memory.owner[: flat.numel()].copy_(flat)

    def copy(self, source: Memory, target: Memory) -> None:
        with self._torch.cuda.stream(self._stream):
            target.owner.copy_(source.owner)

    def _bytes(self, memory: Memory, nbytes: int) -> Array:
        with self._torch.cuda.stream(self._stream):
            result: Array = memory.owner[:nbytes].cpu().numpy()
        return result

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            work()

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay


class PycudaDevice(Device):
    """A Device by pycuda, in the GPU's primary context, which TensorRT uses too."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        cuda.init()
        self._context = cuda.Device(0).retain_primary_context()
        self._context.push()
        atexit.register(self._context.pop)  # pycuda aborts a process that ends with an active context
        self._cuda = cuda
        self._stream = cuda.Stream()
        self.stream = int(self._stream.handle)

    def allocate(self, nbytes: int) -> Memory:
        owner = self._cuda.mem_alloc(nbytes)
        self._cuda.memset_d8_async(int(owner), 0, nbytes, self._stream)
        return Memory(int(owner), nbytes, owner)

    def upload(self, memory: Memory, array: Array) -> None:
        self._cuda.memcpy_htod_async(
            memory.address, np.ascontiguousarray(array).reshape(-1).view(np.uint8), self._stream
        )
        self._stream.synchronize()  # the caller may change or free the array next

    def copy(self, source: Memory, target: Memory) -> None:
        self._cuda.memcpy_dtod_async(target.address, source.address, source.nbytes, self._stream)

    def _bytes(self, memory: Memory, nbytes: int) -> Array:
        result = np.empty(nbytes, np.uint8)
        self._cuda.memcpy_dtoh_async(result, memory.address, self._stream)
        self._stream.synchronize()
        return result


def open_device() -> Device:
    """Open the first GPU. Raises UserError when no package reaches it."""
    problem = why_unavailable()
    if problem is not None:
        raise UserError(problem)
    return TorchDevice() if _torch_sees_it() else PycudaDevice()


def why_unavailable() -> Problem | None:
    """Why the GPU's memory is out of reach; None when it is not."""
    if _torch_sees_it() or importlib.util.find_spec("pycuda") is not None:
        return None
    what = "neither PyTorch nor pycuda reaches the GPU: this PyTorch is built for the CPU, pycuda is not installed"
    fix = "install PyTorch's CUDA build, or: pip install pycuda (it is compiled; CUDA_ROOT must name the CUDA toolkit)"
    return Problem(what, "engine.kind", fix)


def _torch_sees_it() -> bool:
    import torch

    return torch.cuda.is_available()
