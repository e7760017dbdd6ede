"""What each kind of TensorRT layer computes, in PyTorch: LAYERS, by the name of its class.

Each takes the tensorrt module, the layer and its operands by position (None for one that is left out), floats in fp32,
and returns the result before it is rounded to the layer's own type. The kinds and options are those that occur in
decoders; any other raises NotImplementedError. Sources: the docstrings of the Python module, and the operators'
specification at docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from pipeline.core.tables.dtypes import BY_NAME

Value = torch.Tensor


def rounded(value: Value, dtype: str) -> Value:
    """Round a value to a number type; floats come back in fp32, so that nothing is computed in less.

    Constants are the only values of floats below 16 bits and integers below 8, and are exact already.
    """
    kind = BY_NAME[dtype]
    exact = torch.float32 if kind.is_float else torch.int8
    value = value.to(exact if kind.bits < (16 if kind.is_float else 8) else getattr(torch, dtype))
    return value.float() if value.is_floating_point() else value


def _axes(mask: int) -> list[int]:
    """The axes of a bit mask."""
    return [axis for axis in range(mask.bit_length()) if mask >> axis & 1]


def _same(_trt: Any, _layer: Any, value: Value, *_: Value | None) -> Value:
    return value


def _shape(_trt: Any, _layer: Any, value: Value) -> Value:
    return torch.tensor(value.shape, dtype=torch.int64)


def _convolution(_trt: Any, layer: Any, value: Value, *_: Value | None) -> Value:
    """Over two axes, without padding; the weights are the layer's own."""
    if any((*layer.padding_nd, *layer.pre_padding, *layer.post_padding)) or set(layer.stride_nd) != {1}:
        raise NotImplementedError("a convolution with padding or strides")
    shape = (layer.num_output_maps, value.shape[1] // layer.num_groups, *layer.kernel_size_nd)
    weight = torch.from_numpy(layer.kernel.copy()).float().reshape(shape)
    bias = torch.from_numpy(layer.bias.copy()).float() if layer.bias.size else None
    return functional.conv2d(value, weight, bias, dilation=tuple(layer.dilation_nd), groups=layer.num_groups)


def _squeeze(_trt: Any, _layer: Any, value: Value, axes: Value | None = None) -> Value:
    return value.squeeze() if axes is None else value.squeeze(tuple(axes.reshape(-1).tolist()))


def _unsqueeze(_trt: Any, _layer: Any, value: Value, axes: Value) -> Value:
    rank = value.dim() + axes.numel()
    for axis in sorted(axis % rank for axis in axes.reshape(-1).tolist()):
        value = value.unsqueeze(axis)
    return value


def _shuffle(_trt: Any, layer: Any, value: Value, sizes: Value | None = None) -> Value:
    """Transpose, reshape, transpose."""
    value = value.permute(tuple(layer.first_transpose)[: value.dim()])
    wanted = layer.reshape_dims if sizes is None else sizes.tolist()
    if wanted is not None:
        shape = [value.shape[i] if n == 0 and layer.zero_is_placeholder else n for i, n in enumerate(wanted)]
        value = value.reshape(shape)
    return value.permute(tuple(layer.second_transpose)[: value.dim()])


def _slice(trt: Any, layer: Any, value: Value, *given: Value | None) -> Value:
    """Of each axis, or of those in `axes`: `shape` numbers from `start` on, `stride` apart (0 repeats one). Mode WRAP
    begins again after the last."""
    parts = dict(zip(("start", "shape", "stride", "fill", "axes"), given, strict=False))
    start, shape, stride, axes = (
        getattr(layer, name) if (part := parts.get(name)) is None else part.tolist()
        for name in ("start", "shape", "stride", "axes")
    )
    wraps = layer.mode == trt.SampleMode.WRAP
    if not (wraps or layer.mode == trt.SampleMode.STRICT_BOUNDS) or min(stride) < 0:
        raise NotImplementedError(f"{layer.name}: a slice by {layer.mode}, strides {stride}")
    for axis, first, count, step in zip(axes or range(value.dim()), start, shape, stride, strict=True):
        indices = torch.arange(count) * step + first
        if wraps:
            indices %= value.shape[axis]
        elif count and indices[-1] >= value.shape[axis]:
            raise ValueError(f"{layer.name}: slice past the end of axis {axis}")
        value = value.index_select(axis, indices)
    return value


def _gather(trt: Any, layer: Any, value: Value, indices: Value) -> Value:
    axis = layer.axis % value.dim()
    if layer.mode == trt.GatherMode.ELEMENT:
        return value.gather(axis, indices.long())
    if layer.mode != trt.GatherMode.DEFAULT or layer.num_elementwise_dims:
        raise NotImplementedError(f"{layer.name}: {layer.mode} with {layer.num_elementwise_dims} elementwise dims")
    picked = value.index_select(axis, indices.reshape(-1).long() % value.shape[axis])
    return picked.reshape(value.shape[:axis] + indices.shape + value.shape[axis + 1 :])


def _concatenation(_trt: Any, layer: Any, *values: Value) -> Value:
    return torch.cat(values, layer.axis)


def _fill(trt: Any, layer: Any, *given: Value | None) -> Value:
    """first, first + step, ... along one axis."""
    sizes, first, step = (*given, None, None, None)[:3]
    shape = list(layer.shape) if sizes is None else sizes.tolist()
    if layer.operation != trt.FillOperation.LINSPACE or len(shape) != 1:
        raise NotImplementedError(f"{layer.name}: {layer.operation} of {len(shape)} axes")
    start = torch.tensor(layer.alpha) if first is None else first.reshape(())
    distance = torch.tensor(layer.beta) if step is None else step.reshape(())
    return start + torch.arange(shape[0]) * distance


def _elementwise(trt: Any, layer: Any, a: Value, b: Value) -> Value:
    operations: dict[Any, Callable[[Value, Value], Value]] = {
        trt.ElementWiseOperation.SUM: torch.add,
        trt.ElementWiseOperation.SUB: torch.sub,
        trt.ElementWiseOperation.PROD: torch.mul,
        trt.ElementWiseOperation.DIV: _divide,
        trt.ElementWiseOperation.FLOOR_DIV: torch.floor_divide,
        trt.ElementWiseOperation.POW: torch.pow,
        trt.ElementWiseOperation.MAX: torch.maximum,
        trt.ElementWiseOperation.MIN: torch.minimum,
        trt.ElementWiseOperation.AND: torch.logical_and,
        trt.ElementWiseOperation.OR: torch.logical_or,
        trt.ElementWiseOperation.XOR: torch.logical_xor,
        trt.ElementWiseOperation.EQUAL: torch.eq,
        trt.ElementWiseOperation.LESS: torch.lt,
        trt.ElementWiseOperation.GREATER: torch.gt,
    }
    return operations[layer.op](a, b)


def _divide(a: Value, b: Value) -> Value:
    """Whole numbers towards zero, as in C."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def _unary(trt: Any, layer: Any, value: Value) -> Value:
    names = ("ABS", "NEG", "SQRT", "EXP", "LOG", "SIN", "COS", "ERF", "FLOOR", "CEIL", "ROUND", "SIGN")
    known = {getattr(trt.UnaryOperation, name): getattr(torch, name.lower()) for name in names}
    known |= {trt.UnaryOperation.RECIP: torch.reciprocal, trt.UnaryOperation.NOT: torch.logical_not}
    result: Value = known[layer.op](value)
    return result


def _activation(trt: Any, layer: Any, value: Value) -> Value:
    kind = layer.type  # of the activation, once the layer has its own class
    known: dict[Any, Callable[[Value], Value]] = {
        trt.ActivationType.RELU: torch.relu,
        trt.ActivationType.SIGMOID: torch.sigmoid,
        trt.ActivationType.TANH: torch.tanh,
        trt.ActivationType.CLIP: lambda x: x.clamp(layer.alpha, layer.beta),
        trt.ActivationType.GELU_ERF: functional.gelu,
        trt.ActivationType.GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
        trt.ActivationType.SOFTPLUS: lambda x: layer.alpha * functional.softplus(layer.beta * x),
        trt.ActivationType.SOFTSIGN: functional.softsign,
        trt.ActivationType.LEAKY_RELU: lambda x: functional.leaky_relu(x, layer.alpha),
        trt.ActivationType.ELU: lambda x: functional.elu(x, layer.alpha),
        trt.ActivationType.HARD_SIGMOID: lambda x: (layer.alpha * x + layer.beta).clamp(0, 1),
    }
    if kind not in known:
        raise NotImplementedError(f"{layer.name}: {kind}")
    return known[kind](value)


def _select(_trt: Any, _layer: Any, condition: Value, a: Value, b: Value) -> Value:
    return torch.where(condition, a, b)


def _reduce(trt: Any, layer: Any, value: Value) -> Value:
    known: dict[Any, Callable[..., Value]] = {
        trt.ReduceOperation.SUM: torch.sum,
        trt.ReduceOperation.AVG: torch.mean,
        trt.ReduceOperation.MAX: torch.amax,
        trt.ReduceOperation.MIN: torch.amin,
    }
    return known[layer.op](value, dim=_axes(layer.axes), keepdim=layer.keep_dims)


def _cumulative(trt: Any, layer: Any, value: Value, axis: Value) -> Value:
    if layer.op != trt.CumulativeOperation.SUM or layer.exclusive or layer.reverse:
        raise NotImplementedError(f"{layer.name}: {layer.op}, exclusive or reversed")
    return value.cumsum(int(axis))


def _scatter(trt: Any, layer: Any, value: Value, indices: Value, updates: Value) -> Value:
    """One number an index along an axis, or, of ND, what is at each index of the first axes."""
    if layer.mode == trt.ScatterMode.ND:
        return value.index_put(indices.long().unbind(-1), updates)
    if layer.mode != trt.ScatterMode.ELEMENT:
        raise NotImplementedError(f"{layer.name}: {layer.mode}")
    return value.scatter(layer.axis, indices.long(), updates)


def _topk(trt: Any, layer: Any, value: Value, count: Value | None = None) -> tuple[Value, Value]:
    """The largest or smallest values along an axis, in order, and their indices."""
    (axis,) = _axes(layer.axes)
    largest = layer.op == trt.TopKOperation.MAX
    values, indices = value.topk(layer.k if count is None else int(count), axis, largest=largest)
    return values, indices


def _softmax(_trt: Any, layer: Any, value: Value) -> Value:
    (axis,) = _axes(layer.axes)
    return value.softmax(axis)


def _normalization(_trt: Any, layer: Any, value: Value, scale: Value, bias: Value) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias."""
    if layer.num_groups != 1:
        raise NotImplementedError(f"{layer.name}: {layer.num_groups} groups")
    axes = _axes(layer.axes)
    variance, mean = torch.var_mean(value, axes, correction=0, keepdim=True)
    return (value - mean) * torch.rsqrt(variance + layer.epsilon) * scale + bias


def _matrix_multiply(trt: Any, layer: Any, a: Value, b: Value) -> Value:
    if trt.MatrixOperation.VECTOR in (layer.op0, layer.op1):
        raise NotImplementedError(f"{layer.name}: a vector")
    turned = (x.mT if op == trt.MatrixOperation.TRANSPOSE else x for x, op in ((a, layer.op0), (b, layer.op1)))
    return torch.matmul(*turned)


def _einsum(_trt: Any, layer: Any, *values: Value) -> Value:
    result: Value = torch.einsum(layer.equation, *values)
    return result


def _rotary(_trt: Any, layer: Any, value: Value, cos: Value, sin: Value, *positions: Value | None) -> Value:
    """value: [batch, heads, sequence, head_dim]; cos and sin: [batch, sequence, half of what is turned]."""
    if layer.interleaved or any(p is not None for p in positions):
        raise NotImplementedError(f"{layer.name}: interleaved pairs, or positions of its own")
    width = layer.rotary_embedding_dim or value.shape[-1]
    low, high, rest = value[..., : width // 2], value[..., width // 2 : width], value[..., width:]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat([low * cos - high * sin, low * sin + high * cos, rest], -1)


def _cache_update(trt: Any, layer: Any, cache: Value, new: Value, start: Value) -> Value:
    """cache: [batch, kv_heads, cache_size, head_dim]; row r's new tokens go to its slots from start[r] on."""
    if layer.cache_mode != trt.KVCacheMode.LINEAR:
        raise NotImplementedError(f"{layer.name}: {layer.cache_mode}")
    written = cache.clone()
    for row, first in enumerate(start.tolist()):
        written[row, :, first : first + new.shape[2]] = new[row]
    return written


def _attention(
    trt: Any, layer: Any, query: Value, key: Value, value: Value, mask: Value | None, lengths: Value | None
) -> Value:
    """query: [batch, heads, sequence, head_dim]; key, value: [batch, kv_heads, cache_size, head_dim]; mask: true where
    a query sees a slot; lengths: [batch], the slots of each row that are keys. Scores are not scaled."""
    attention = layer.attention
    if attention.norm_op != trt.AttentionNormalizationOp.SOFTMAX:
        raise NotImplementedError(f"{attention.name}: {attention.norm_op}")
    batch, heads, sequence, _ = query.shape
    shared, size = key.shape[1:3]
    ends = torch.full((batch,), size) if lengths is None else lengths.long()
    slots, rows = torch.arange(size), torch.arange(sequence)[:, None]
    seen = slots < ends[:, None, None, None]
    if hasattr(attention, "causal_kind"):
        causal = attention.causal_kind.name
    else:  # TensorRT 10
        causal = "UPPER_LEFT" if attention.causal else "NONE"
    if causal == "UPPER_LEFT":
        seen = seen & (slots <= rows)
    elif causal == "LOWER_RIGHT":
        seen = seen & (slots <= rows + (ends - sequence)[:, None, None, None])
    if mask is not None:
        if mask.dtype != torch.bool:
            raise NotImplementedError(f"{attention.name}: a mask of {mask.dtype}")
        seen = seen & mask
    key, value = (x.repeat_interleave(heads // shared, 1) for x in (key, value))  # of each query head
    scores = (query @ key.mT).masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ value


def _dequantize(_trt: Any, layer: Any, value: Value, scale: Value, zero: Value | None = None) -> Value:
    """value * scale: one scale for all, one for each index of an axis, or one for each block of numbers."""
    if zero is not None and zero.any():
        raise NotImplementedError(f"{layer.name}: zero points")
    if scale.numel() == 1:
        return value * scale.reshape(())
    if scale.dim() == value.dim():
        for axis, (many, few) in enumerate(zip(value.shape, scale.shape, strict=True)):
            scale = scale.repeat_interleave(many // few, axis)
        return value * scale
    return value * scale.reshape([-1 if axis == layer.axis % value.dim() else 1 for axis in range(value.dim())])


LAYERS: dict[str, Callable[..., Value | tuple[Value, ...]]] = {
    "IActivationLayer": _activation,
    "IAttentionInputLayer": _attention,
    "IAttentionOutputLayer": _same,
    "ICastLayer": _same,
    "IConcatenationLayer": _concatenation,
    "IConvolutionLayer": _convolution,
    "ICumulativeLayer": _cumulative,
    "IDequantizeLayer": _dequantize,
    "IEinsumLayer": _einsum,
    "IElementWiseLayer": _elementwise,
    "IFillLayer": _fill,
    "IGatherLayer": _gather,
    "IIdentityLayer": _same,
    "IKVCacheUpdateLayer": _cache_update,
    "IMatrixMultiplyLayer": _matrix_multiply,
    "INormalizationLayer": _normalization,
    "IReduceLayer": _reduce,
    "IRotaryEmbeddingLayer": _rotary,
    "IScatterLayer": _scatter,
    "ISelectLayer": _select,
    "IShapeLayer": _shape,
    "IShuffleLayer": _shuffle,
    "ISliceLayer": _slice,
    "ISoftMaxLayer": _softmax,
    "ISqueezeLayer": _squeeze,
    "ITopKLayer": _topk,
    "IUnaryLayer": _unary,
    "IUnsqueezeLayer": _unsqueeze,
}
