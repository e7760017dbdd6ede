"""Translations of PyTorch operators to ONNX, where torch.onnx has none or writes more nodes than necessary.

torch.onnx turns every integer argument into a tensor by Cast, Reshape and Concat, even if it is a constant: 2,000 of
SmolLM2's 3,739 exported nodes were of that kind.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import values
from onnxscript.function_libs.torch_lib.ops import core
from onnxscript.onnx_opset import opset24 as op

from pipeline.graph import experts
from pipeline.model import operators  # noqa: F401  # registers the operators

EXPERTS = values.Opset(experts.SCHEMA.domain, 1)
LAST = 2**63 - 1  # end of a slice that goes to the end


def _scatter(cache: Any, update: Any, position: Any) -> Any:
    return op.TensorScatter(cache, update, position, axis=2, mode="linear")


def _attend(query: Any, key: Any, value: Any, length: Any, mask: Any, scale: float, softcap: float) -> Any:
    if mask is None:
        # with lengths, is_causal aligns the new tokens to each row's last used slots (Attention-24)
        return op.Attention(query, key, value, None, None, None, length, is_causal=1, scale=scale, softcap=softcap)[0]
    return op.Attention(query, key, value, mask, scale=scale, softcap=softcap)[0]


def _experts(*arguments: Any) -> Any:
    """One node, which graph.experts replaces."""
    inputs, options = arguments[:7], arguments[7:]
    names = ("transposed", "layout", "function", "alpha", "limit", "limit_after", "shift")
    numbers = (int(value) if isinstance(value, bool) else value for value in options)
    return EXPERTS.Experts(*inputs, **dict(zip(names, numbers, strict=True)))


def _cast(value: Any, dtype: int, *_: Any, **__: Any) -> Any:
    return op.Cast(value, to=dtype)


def _reshape(value: Any, shape: Sequence[Any]) -> Any:
    """Write a dimension that stays as 0, so that the shape is a constant: [0, 0, 9, 64] for a view as heads."""
    before = [str(dim) for dim in value.shape]
    dims = [0 if _symbol(dim) in before[i : i + 1] else dim for i, dim in enumerate(shape)]
    if any(isinstance(dim, ir.Value) for dim in dims):
        return core.aten_reshape(value, shape)
    return op.Reshape(value, dims)


def _symbol(dim: Any) -> str | None:
    """The symbol of a dimension that is the size of a symbolic axis; None for any other."""
    producer = dim.producer() if isinstance(dim, ir.Value) else None
    return str(producer.meta["node"].meta["val"]) if producer is not None and "node" in producer.meta else None


def _slice(value: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if any(isinstance(bound, ir.Value) for bound in (start, end, step)):
        return core.aten_slice(value, dim, start, end, step)
    return op.Slice(value, [start or 0], [LAST if end is None else end], [dim], [step])


def _mean(value: Any, dim: Sequence[int] | None, keepdim: bool = False, dtype: int = -1) -> Any:
    mean = op.ReduceMean(value, list(dim or range(len(value.shape))), keepdims=keepdim)
    return mean if dtype in (None, -1) else op.Cast(mean, to=dtype)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.kvforge.scatter.default: _scatter,
    torch.ops.kvforge.attend.default: _attend,
    torch.ops.kvforge.experts.default: _experts,
    torch.ops.aten.to.dtype: _cast,
    torch.ops.aten.view.default: _reshape,
    torch.ops.aten.reshape.default: _reshape,
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.mean.dim: _mean,
}
