"""Translations of PyTorch operators to ONNX, where torch.onnx has none or writes more nodes than necessary.

torch.onnx turns every integer argument into a tensor by Cast, Reshape and Concat, even if it is a constant: 2,000 of
SmolLM2's 3,739 exported nodes were of that kind.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import values
from onnxscript.function_libs.torch_lib.ops import core, nn
from onnxscript.onnx_opset import opset24 as op

from pipeline.graph import experts, recurrence
from pipeline.graph.attention import SCORES
from pipeline.model import operators  # noqa: F401  # registers the operators

OURS = values.Opset(experts.SCHEMA.domain, recurrence.SCHEMA.since_version)
LAST = 2**63 - 1  # end of a slice that goes to the end


def _scatter(cache: Any, update: Any, position: Any) -> Any:
    return op.TensorScatter(cache, update, position, axis=2, mode="linear")


def _attend(
    query: Any, key: Any, value: Any, length: Any, mask: Any, scale: float, softcap: float, sink: Any = None
) -> Any:
    inputs, options = [query, key, value, mask], {"scale": scale, "softcap": softcap}
    if mask is None:
        # with lengths, is_causal aligns the new tokens to each row's last used slots (Attention-24)
        inputs, options = [query, key, value, None, None, None, length], {**options, "is_causal": 1}
    if sink is None:
        return op.Attention(*inputs, **options)[0]
    # Exact: the softmax with one more score is the plain one times sum(exp(scores)) / (sum(exp(scores)) + exp(sink)).
    # One more key in its place would copy the whole cache in every step.
    out, _, _, scores = op.Attention(*inputs, **options, qk_matmul_output_mode=SCORES)
    total = op.ReduceLogSumExp(scores, [3], keepdims=1)
    return op.Mul(out, op.Sigmoid(op.Sub(total, op.Unsqueeze(sink, [1, 2]))))


def _experts(*arguments: Any) -> Any:
    """One node, which graph.experts replaces."""
    inputs, options = arguments[:7], arguments[7:]
    names = ("transposed", "layout", "function", "alpha", "limit", "limit_after", "shift")
    numbers = (int(value) if isinstance(value, bool) else value for value in options)
    return OURS.Experts(*inputs, **dict(zip(names, numbers, strict=True)))


def _recur(query: Any, key: Any, value: Any, decay: Any, beta: Any, state: Any) -> Any:
    """One node, which graph.recurrence replaces."""
    return OURS.Recur(query, key, value, decay, beta, state)


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


def _split(value: Any, sizes: Any, dim: int = 0) -> Any:
    """One node for equal parts, else one Slice a part: torch.onnx writes sequences, which TensorRT lacks.

    sizes: of every part, or one for all.
    """
    total = value.shape[dim]
    if isinstance(sizes, int) and isinstance(total, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    if not isinstance(sizes, Sequence) or any(isinstance(size, ir.Value) for size in sizes):
        return core.aten_split_with_sizes(value, sizes, dim)
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return op.Split(value, axis=dim, num_outputs=len(sizes))
    ends = list(accumulate(sizes))
    return tuple(op.Slice(value, [end - size], [end], [dim], [1]) for size, end in zip(sizes, ends, strict=True))


def _index(value: Any, indices: Sequence[Any]) -> Any:
    """Rows of one axis by Gather; torch.onnx transposes, takes GatherND and transposes back."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(given) == 1 and given[0][1].dtype == ir.DataType.INT64:
        axis, index = given[0]
        return op.Gather(value, index, axis=axis)
    return core.aten_index(value, indices)


def _conv1d(
    value: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Any:
    """One node; torch.onnx makes a bias of zeros where there is none, of the type of the input by CastLike."""
    places = {"strides": list(stride), "pads": list(padding) * 2, "dilations": list(dilation)}
    return op.Conv(value, weight, bias, group=groups, **places)


def _softplus(value: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """One node: above the threshold, where PyTorch returns the value itself, they differ by less than fp32 rounds."""
    if beta == 1.0 and threshold >= 20.0:
        return op.Softplus(value)
    return nn.aten_softplus(value, beta, threshold)


def _mean(value: Any, dim: Sequence[int] | None, keepdim: bool = False, dtype: int = -1) -> Any:
    mean = op.ReduceMean(value, list(dim or range(len(value.shape))), keepdims=keepdim)
    return mean if dtype in (None, -1) else op.Cast(mean, to=dtype)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.kvforge.scatter.default: _scatter,
    torch.ops.kvforge.attend.default: _attend,
    torch.ops.kvforge.experts.default: _experts,
    torch.ops.kvforge.recur.default: _recur,
    torch.ops.aten.to.dtype: _cast,
    torch.ops.aten.view.default: _reshape,
    torch.ops.aten.reshape.default: _reshape,
    torch.ops.aten.slice.Tensor: _slice,
    torch.ops.aten.index.Tensor: _index,
    torch.ops.aten.split.Tensor: _split,
    torch.ops.aten.split_with_sizes.default: _split,
    torch.ops.aten.conv1d.default: _conv1d,
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.mean.dim: _mean,
}
