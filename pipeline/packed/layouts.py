"""Unpack the weights of quantized checkpoints: integers or small floats, with scales for groups of inputs.

Layouts, with a layer's K inputs, N outputs and G groups of inputs:

* GPTQ (GPTQModel, nn_modules/qlinear): qweight int32 [K * bits / 32, N] has the integers of neighbouring inputs in one
  word, the first in the lowest bits; qzeros int32 [G, N * bits / 32] those of neighbouring outputs; scales [G, N];
  g_idx [K] is the group of each input. The older of the two formats stores zero points minus 1.
* AWQ (AutoAWQ, modules/linear/gemm.py): qweight int32 [K, N * bits / 32], qzeros and scales as above. Of eight outputs,
  a word has from the lowest bits on 0, 2, 4, 6, 1, 3, 5, 7.
* compressed-tensors, pack-quantized: weight_packed int32 [N, K * bits / 32], weight_scale [N, G], weight_zero_point
  int32 [N * bits / 32, G], weight_g_idx [K]. Integers and zero points are stored plus 2^(bits - 1).
* compressed-tensors, int-quantized: weight int8 [N, K], weight_scale and weight_zero_point [N, G].
* small floats: weight float8_e4m3fn [N, K]; weight_scale_inv or weight_scale is one for all, one for each output, or
  one for each tile (of 128 x 128, smaller at the edges). The weight is the product with it. `mxfp4` has its own layout.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.arrays import Floats
from pipeline.packed.integers import Integers, Packed

Tensors = Mapping[str, Tensor]  # of one layer, by the end of their names
E2M1 = [sign * number for sign in (1, -1) for number in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)]
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word each output is


def _words(words: Tensor, bits: int, axis: int) -> Integers:
    """Integers of `bits` bits out of the 32 of each word, the lowest bits first, along an axis of a matrix."""
    array = words.numpy().view(np.uint32)
    array = array if axis == 1 else array.T
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    fields = (array[:, :, None] >> shifts & np.uint32(2**bits - 1)).astype(np.int16)
    fields = fields.reshape(len(array), -1)
    return fields if axis == 1 else fields.T


def _floats(tensor: Tensor) -> Floats:
    return np.asarray(tensor.to(torch.float32).numpy())


def _in_order(k: int, groups: int) -> npt.NDArray[np.int64]:
    return np.arange(k, dtype=np.int64) // -(-k // groups)


def gptq(layer: Tensors) -> Packed:
    """A layer of GPTQ, with zero points as the newer format has them (see `with_zeros_of_gptq_1`)."""
    scales, outputs = _floats(layer["scales"]), layer["scales"].shape[1]
    bits = layer["qzeros"].shape[1] * 32 // outputs
    q = _words(layer["qweight"], bits, axis=0)
    groups = layer["g_idx"].numpy().astype(np.int64) if "g_idx" in layer else _in_order(len(q), len(scales))
    middle = 2 ** (bits - 1)
    zero = _words(layer["qzeros"], bits, axis=1)
    return Packed(bits, q.T - np.int16(middle), scales.T, zero.T - np.int16(middle), groups)


def with_zeros_of_gptq_1(layer: Tensors) -> Tensors:
    """A layer of GPTQ's older format as one of the newer: 1 is added to each zero point, in whole words, as it was
    taken off."""
    bits = layer["qzeros"].shape[1] * 32 // layer["scales"].shape[1]
    ones = np.uint32(sum(1 << shift for shift in range(0, 32, bits)))
    words = layer["qzeros"].numpy().view(np.uint32) + ones
    return {**layer, "qzeros": torch.from_numpy(words.view(np.int32))}


def awq(layer: Tensors) -> Packed:
    """A layer of AWQ's format gemm."""
    scales = _floats(layer["scales"])
    bits = layer["qweight"].shape[1] * 32 // scales.shape[1]
    middle = np.int16(2 ** (bits - 1))

    def unpack(words: Tensor) -> Integers:
        fields = _words(words, bits, axis=1)
        return fields.reshape(len(fields), -1, 8)[:, :, AWQ_ORDER].reshape(len(fields), -1).T - middle

    q = unpack(layer["qweight"])
    zero = unpack(layer["qzeros"]) if "qzeros" in layer else np.zeros(scales.T.shape, np.int16)
    return Packed(bits, q, scales.T, zero, _in_order(q.shape[1], len(scales)))


def compressed(layer: Tensors) -> Packed:
    """A layer of compressed-tensors, packed or in int8."""
    if "weight_packed" in layer:
        n, k = (int(size) for size in layer["weight_shape"])
        bits = layer["weight_packed"].shape[1] * 32 // k
        q = _words(layer["weight_packed"], bits, axis=1)[:, :k] - np.int16(2 ** (bits - 1))
    else:
        bits, q = 8, layer["weight"].numpy().astype(np.int16)
        n, k = q.shape
    scale = _floats(layer["weight_scale"])
    scale = scale.reshape(-1, 1) if scale.ndim < 2 else scale
    scale = np.array(np.broadcast_to(scale, (n, scale.shape[1])))
    zero, given = np.zeros(scale.shape, np.int16), layer.get("weight_zero_point")
    if given is not None:
        packed = given.dtype is torch.int32
        array = _words(given, bits, axis=0)[:n] - np.int16(2 ** (bits - 1)) if packed else given.numpy()
        zero[:] = array.reshape(-1, scale.shape[1])
    groups = layer["weight_g_idx"].numpy().astype(np.int64) if "weight_g_idx" in layer else _in_order(k, scale.shape[1])
    return Packed(bits, q, scale, zero, groups)


def floats(weight: Tensor, scale: Tensor, tile: tuple[int, int]) -> Tensor:
    """A weight of small floats [N, K] in fp32. tile: the outputs and inputs that share a scale, where `scale` is a
    matrix with several of both."""
    values, factors = weight.to(torch.float32), scale.to(torch.float32)
    if factors.ndim == 1 and len(factors) > 1:
        factors = factors[:, None]
    elif factors.ndim == 2 and factors.shape[0] > 1 and factors.shape[1] > 1:
        n, k = values.shape
        factors = factors.repeat_interleave(tile[0], 0)[:n].repeat_interleave(tile[1], 1)[:, :k]
    return values * factors


def mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Experts' weights as gpt-oss stores them, in fp32 [experts, K, N].

    blocks: uint8 [experts, N, K / 32, 16], two numbers of e2m1 in a byte, the earlier one in the low half.
    scales: uint8 [experts, N, K / 32], exponents plus 127.
    """
    both = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2).long()
    values = torch.ldexp(torch.tensor(E2M1)[both], scales.to(torch.int32)[..., None] - 127)
    return values.flatten(-2).transpose(1, 2).contiguous()
