"""Unpack the blocks of GGUF files into grids, bit for bit: what was rounded once is not rounded again.

Layouts: ggml/src/ggml-common.h and dequantize_row_* in ggml-quants.c of ggml-org/llama.cpp. Each kind has blocks of 32
or 256 values with an fp16 step d. Blocks of 256 have integer factors for d in sub-blocks of 16 or 32. Kinds with a
minimum have an fp16 step for it too. A minimum becomes the grid's offset, about the middle of the integers: d q - m is
d (q - 8) + (8 d - m).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType
from gguf.quants import IQ4_NL, MXFP4

from pipeline.core.arrays import Floats
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.quantization.grids import Grid

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int8]
CODES = np.array(IQ4_NL.kvalues, np.int8)
FLOAT4 = np.array(MXFP4.kvalues, np.int8)  # twice the numbers of e2m1, so that they are whole
PAIRS = range(0, 8, 2)  # shifts of a byte's four fields of 2 bits


class Parts(NamedTuple):
    """Blocks of one or more rows, taken apart. values: [B, values]; scale, and minimum (None for none): fp32 [B, groups
    of values]. A value is scale * value - minimum."""

    values: Integers
    scale: Floats
    minimum: Floats | None = None


def unpack(data: Bytes, kind: GGMLQuantizationType) -> Grid:
    """Rows of a tensor as the file has them, uint8 [N, bytes of a row], as a grid."""
    read, bits = KINDS[kind]
    parts = read(data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]))
    groups, scale, offset = parts.scale.shape[1], parts.scale, None
    q = parts.values.reshape(len(scale), groups, -1)
    if parts.minimum is not None:
        middle = 2 if kind is GGMLQuantizationType.Q2_K else 16 if bits == 8 else 8
        q, offset = q - np.int8(middle), middle * scale - parts.minimum
    elif q.min() > -(2 ** (bits - 1)):
        # engines expect scales above 0; Q4_0 uses the whole range of its 4 bits and keeps its negative ones
        q, scale = np.where(scale[:, :, None] < 0, -q, q), np.abs(scale)
    rows, fmt = len(data), FORMATS[Weights.int4 if bits == 4 else Weights.int8]
    offset = None if offset is None else offset.reshape(rows, -1)
    return Grid(q.reshape(rows, -1), scale.reshape(rows, -1), offset, fmt).divisible()


def _fields(data: Bytes, shifts: range | tuple[int, ...], mask: int, together: int) -> Integers:
    """Bit fields of bytes [B, n], below 128: the first field of `together` bytes, then their next, and so on."""
    groups = data.reshape(len(data), -1, 1, together) >> np.array(shifts, np.uint8)[:, None] & np.uint8(mask)
    return groups.astype(np.int8).reshape(len(data), -1)


def _halves(data: Bytes, together: int) -> Integers:
    return _fields(data, (0, 4), 15, together)


def _fp16(data: Bytes) -> Floats:
    """Bytes [B, 2n] as fp32 [B, n]."""
    return np.ascontiguousarray(data).view(np.float16).astype(np.float32)


def _q4_0(data: Bytes) -> Parts:
    return Parts(_halves(data[:, 2:], 16) - np.int8(8), _fp16(data[:, :2]))


def _q4_1(data: Bytes) -> Parts:
    return Parts(_halves(data[:, 4:], 16), _fp16(data[:, :2]), -_fp16(data[:, 2:4]))


def _q5(high: Bytes, low: Bytes) -> Integers:
    """The fifth bits of 32 values, 4 bytes, over their low 4 bits."""
    return _halves(low, 16) | _fields(high, range(8), 1, 1) << 4


def _q5_0(data: Bytes) -> Parts:
    return Parts(_q5(data[:, 2:6], data[:, 6:]) - np.int8(16), _fp16(data[:, :2]))


def _q5_1(data: Bytes) -> Parts:
    return Parts(_q5(data[:, 4:8], data[:, 8:]), _fp16(data[:, :2]), -_fp16(data[:, 2:4]))


def _q8_0(data: Bytes) -> Parts:
    return Parts(np.ascontiguousarray(data[:, 2:]).view(np.int8), _fp16(data[:, :2]))


def _q2_k(data: Bytes) -> Parts:
    factors, quarters = data[:, :16], data[:, 16:80]
    scale = _fp16(data[:, 80:82]) * (factors & 15)
    return Parts(_fields(quarters, PAIRS, 3, 32), scale, _fp16(data[:, 82:84]) * (factors >> 4))


def _q3_k(data: Bytes) -> Parts:
    high, low, factors = data[:, :32], data[:, 32:96], data[:, 96:108]
    factor = (_halves(factors[:, :8], 8) | _fields(factors[:, 8:], PAIRS, 3, 4) << 4) - np.int8(32)
    values = _fields(low, PAIRS, 3, 32) + (_fields(high, range(8), 1, 32) << 2) - np.int8(4)
    return Parts(values, _fp16(data[:, 108:110]) * factor)


def _with_minimum(data: Bytes) -> tuple[Floats, Floats]:
    """Scales and minimums of Q4_K and Q5_K, [B, 8]: two fp16 steps, and factors of 6 bits in 12 bytes."""
    steps, (first, second, rest) = _fp16(data[:, :4]), np.split(data[:, 4:16], 3, axis=1)
    scales = np.concatenate([first & 63, rest & 15 | first >> 2 & 48], axis=1)
    minimums = np.concatenate([second & 63, rest >> 4 | second >> 2 & 48], axis=1)
    return steps[:, :1] * scales, steps[:, 1:] * minimums


def _q4_k(data: Bytes) -> Parts:
    return Parts(_halves(data[:, 16:], 32), *_with_minimum(data))


def _q5_k(data: Bytes) -> Parts:
    values = _halves(data[:, 48:], 32) | _fields(data[:, 16:48], range(8), 1, 32) << 4
    return Parts(values, *_with_minimum(data))


def _q6_k(data: Bytes) -> Parts:
    low, high, factors = data[:, :128], data[:, 128:192], np.ascontiguousarray(data[:, 192:208]).view(np.int8)
    values = (_halves(low, 64) | _fields(high, PAIRS, 3, 32) << 4) - np.int8(32)
    return Parts(values, _fp16(data[:, 208:]) * factors)


def _iq4_nl(data: Bytes) -> Parts:
    return Parts(CODES[_halves(data[:, 2:], 16)], _fp16(data[:, :2]))


def _iq4_xs(data: Bytes) -> Parts:
    high, low = data[:, 2:4], data[:, 4:8]
    factor = (_halves(low, 1) | _fields(high, PAIRS, 3, 1) << 4) - np.int8(32)
    return Parts(CODES[_halves(data[:, 8:], 16)], _fp16(data[:, :2]) * factor)


def _mxfp4(data: Bytes) -> Parts:
    return Parts(FLOAT4[_halves(data[:, 1:], 16)], np.ldexp(np.float32(1), data[:, :1].astype(np.int32) - 128))


# How to take blocks apart, and the bits that their integers need. Of the other kinds, numbers of 3 bits and less from
# a table of patterns, none is carried over.
KINDS: Mapping[GGMLQuantizationType, tuple[Callable[[Bytes], Parts], int]] = {
    GGMLQuantizationType.Q2_K: (_q2_k, 4),
    GGMLQuantizationType.Q3_K: (_q3_k, 4),
    GGMLQuantizationType.Q4_0: (_q4_0, 4),
    GGMLQuantizationType.Q4_1: (_q4_1, 4),
    GGMLQuantizationType.Q4_K: (_q4_k, 4),
    GGMLQuantizationType.Q5_0: (_q5_0, 8),
    GGMLQuantizationType.Q5_1: (_q5_1, 8),
    GGMLQuantizationType.Q5_K: (_q5_k, 8),
    GGMLQuantizationType.Q6_K: (_q6_k, 8),
    GGMLQuantizationType.Q8_0: (_q8_0, 8),
    GGMLQuantizationType.IQ4_NL: (_iq4_nl, 8),
    GGMLQuantizationType.IQ4_XS: (_iq4_xs, 8),
    GGMLQuantizationType.MXFP4: (_mxfp4, 8),
}
