"""The blocks of a GGUF checkpoint, carried over as they are: what was rounded once is not rounded again.

Names and layouts in the ONNX graph differ from the file's: weights are transposed, rows of q and k are permuted for
rotary embedding, q, k and v may be one weight. A block always runs along the input axis of one row, so rows are found
by content: a digest of a row's numbers, in the compute type, leads to the row of the file.

Block formats: ggml/src/ggml-common.h of ggml-org/llama.cpp. Each has 32 values and an fp16 step d; Q4_1 also has an
fp16 minimum m. Q4_0: w = d(q - 8), Q4_1: w = dq + m, both with q in 0..15, the low halves of 16 bytes before the high
ones. Q8_0: w = dq with int8 q.
"""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from pipeline.core.arrays import Floats
from pipeline.core.tables.formats import FORMATS, Format, Weights
from pipeline.quantization.grids import Grid, chunks

BLOCK = 32
CARRIED_OVER = {
    GGMLQuantizationType.Q4_0: FORMATS[Weights.int4],
    GGMLQuantizationType.Q4_1: FORMATS[Weights.int4],
    GGMLQuantizationType.Q8_0: FORMATS[Weights.int8],
}
Bytes = npt.NDArray[np.uint8]


def is_gguf(path: Path) -> bool:
    """Whether this is a GGUF file, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def unpack(data: Bytes, kind: GGMLQuantizationType) -> Grid:
    """Rows of a tensor as the file has them, uint8 [N, bytes of a row], as a grid: q - 8 with offset m + 8d."""
    rows = len(data)
    blocks = data.reshape(rows, -1, gguf.GGML_QUANT_SIZES[kind][1])
    d = _fp16(blocks[:, :, 0:2])
    if kind is GGMLQuantizationType.Q8_0:
        q = np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(rows, -1)
        return Grid(q, d, None, CARRIED_OVER[kind])
    halves = blocks[:, :, -16:]
    q = (np.concatenate([halves & 15, halves >> 4], axis=2).astype(np.int8) - 8).reshape(rows, -1)
    offset = None if kind is GGMLQuantizationType.Q4_0 else _fp16(blocks[:, :, 2:4]) + 8 * d
    return Grid(q, d, offset, CARRIED_OVER[kind])


def _fp16(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float16)[:, :, 0].astype(np.float32)


def digests(rows: npt.NDArray[np.floating]) -> list[bytes]:
    """A digest of each row's numbers; 0 and -0 are one number."""
    return [hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(rows + 0)]


class GgufRowIndex:
    """The rows of a GGUF file in a weight format, to be looked up by their numbers in type `dtype`."""

    def __init__(self, path: Path, fmt: Format, dtype: npt.DTypeLike) -> None:
        self._format, self._dtype = fmt, dtype
        self._tensors: list[tuple[Bytes, GGMLQuantizationType]] = []
        self._rows: dict[bytes, tuple[int, int]] = {}  # digest -> tensor, row
        for tensor in gguf.GGUFReader(path).tensors:
            kind = tensor.tensor_type
            if CARRIED_OVER.get(kind) != fmt:
                continue
            data = tensor.data.reshape(-1, tensor.data.shape[-1])
            for start, part in chunks(data, int(tensor.shape[0])):
                rows = gguf.quants.dequantize(part, kind).astype(dtype)
                self._rows |= {d: (len(self._tensors), start + i) for i, d in enumerate(digests(rows))}
            self._tensors.append((data, kind))

    def locate(self, rows: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
        """Where rows [N, K] are in the file, [N, 2]: tensor and row, -1 for a row that is not there."""
        found = [digest for _, part in chunks(rows, rows.shape[1]) for digest in digests(part.astype(self._dtype))]
        return np.array([self._rows.get(digest, (-1, -1)) for digest in found], np.int64)

    def grid(self, places: npt.NDArray[np.int64]) -> Grid:
        """The file's own blocks of rows that were located."""
        data, kind = self._tensors[places[0, 0]]
        blocks = data.shape[1] // gguf.GGML_QUANT_SIZES[kind][1]
        q = np.empty((len(places), blocks * BLOCK), np.int8)
        scale, offset = np.zeros((2, len(places), blocks), np.float32)
        for tensor in np.unique(places[:, 0]):
            here = places[:, 0] == tensor
            data, kind = self._tensors[tensor]
            grid = unpack(data[places[here, 1]], kind)
            q[here], scale[here] = grid.q, grid.scale
            if grid.offset is not None:
                offset[here] = grid.offset
        return Grid(q, scale, offset if offset.any() else None, self._format)
