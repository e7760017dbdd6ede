"""Rotary embeddings that are written in complex numbers (DeepSeek-V2, Llama 4): the same in real numbers.

torch.export has no decompositions for complex numbers, and ONNX has no such type. Within the model's forward, and in
its thread alone, a complex tensor is a pair of real ones.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


class Pair:
    """A complex tensor, with what rotary embeddings do with one."""

    def __init__(self, real: torch.Tensor, imaginary: torch.Tensor) -> None:
        self.real, self.imaginary = real, imaginary

    @property
    def device(self) -> torch.device:
        """Of both parts."""
        return self.real.device

    def __mul__(self, other: Any) -> "Pair":
        if not isinstance(other, Pair):
            return self._each(lambda part: part * other)
        return Pair(
            self.real * other.real - self.imaginary * other.imaginary,
            self.real * other.imaginary + self.imaginary * other.real,
        )

    def __getitem__(self, index: Any) -> "Pair":
        return self._each(lambda part: part[index])

    def unsqueeze(self, axis: int) -> "Pair":
        """See torch."""
        return self._each(lambda part: part.unsqueeze(axis))

    def to(self, *args: Any) -> "Pair":
        """See torch."""
        return self._each(lambda part: part.to(*args))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Pair":
        return Pair(change(self.real), change(self.imaginary))

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), _kwargs: Any = None) -> Any:
        if func is not torch.view_as_real:
            return NotImplemented
        (pair,) = args
        return torch.stack([pair.real, pair.imaginary], -1)


class _RealParts(TorchFunctionMode):
    """Lets torch make pairs instead of complex tensors."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.polar:
            size, angle = args
            return Pair(size * angle.cos(), size * angle.sin())
        if func is torch.view_as_complex:
            return Pair(*args[0].unbind(-1))
        return func(*args, **(kwargs or {}))


def use_real_parts(model: PreTrainedModel) -> None:
    """Run a model whose rotary embedding gives complex numbers with pairs of real ones."""
    if not any(map(_is_complex, model.modules())):
        return
    inner = model.forward

    @wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with _RealParts():
            return inner(*args, **kwargs)

    model.forward = forward


def _is_complex(module: torch.nn.Module) -> bool:
    """Whether a rotary embedding gives one complex tensor for a position."""
    frequencies = getattr(module, "inv_freq", None)
    if not isinstance(frequencies, torch.Tensor):
        return False
    try:
        with torch.no_grad():
            angles = module(frequencies, torch.zeros(1, 1, dtype=torch.int64))
    except (TypeError, AttributeError):  # it takes something else: a kind of layer, for example
        return False
    return isinstance(angles, torch.Tensor) and angles.is_complex()
