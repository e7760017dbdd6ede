"""Run the wrapped program (.pt2) in PyTorch. For verification, not for speed: each step copies the caches."""

from pathlib import Path

import ml_dtypes
import numpy as np
import torch

from pipeline.core.arrays import Array
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.model import pt2
from pipeline.runtime.session import Runtime, Session


class Torch(Runtime):
    """An exported program on the CPU."""

    def __init__(self, program: torch.export.ExportedProgram, contract: GraphContract, profiles: Profiles) -> None:
        self.contract = contract
        self.profiles = profiles
        self.module = program.module()

    @classmethod
    def load(cls, path: Path, contract: GraphContract, profiles: Profiles) -> "Torch":
        """Load a .pt2 file."""
        return cls(pt2.load(path), contract, profiles)

    def session(self, batch: int) -> "TorchSession":
        return TorchSession(self, batch)


class TorchSession(Session):
    """See Session."""

    def __init__(self, runtime: Torch, batch: int) -> None:
        super().__init__(runtime.contract, runtime.profiles, batch)
        self._module = runtime.module

    def _run(self, feeds: dict[str, Array]) -> Array:
        with torch.inference_mode():
            kept = self._kept()
            given, past = (list(map(_tensor, arrays.values())) for arrays in (feeds, kept))
            logits, present = self._module(*given, past)
        new = dict(zip(kept, map(_array, present), strict=True))
        self._caches = [new[tensor.name] for tensor in self.contract.caches]
        self._states = [new[tensor.name] for tensor in self.contract.states]
        return _array(logits)

    def _kept(self) -> dict[str, Array]:
        """Caches and states by name, in the order of the contract's inputs."""
        contract = self.contract
        tensors, arrays = (*contract.caches, *contract.states), (*self.caches, *self.states)
        kept = {tensor.name: array for tensor, array in zip(tensors, arrays, strict=True)}
        return {tensor.name: kept[tensor.name] for tensor in contract.inputs if tensor.name in kept}


def _tensor(array: Array) -> torch.Tensor:
    """A tensor that shares an array's memory; PyTorch does not know NumPy's bfloat16."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(tensor: torch.Tensor) -> Array:
    """An array that shares a tensor's memory."""
    bf16 = tensor.dtype == torch.bfloat16
    found: Array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if bf16 else tensor.numpy()
    return found
