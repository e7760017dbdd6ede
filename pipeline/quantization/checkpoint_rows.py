"""Rows of a checkpoint that are on a grid already, found by their numbers and carried over as they are.

Names and layouts in the ONNX graph differ from the checkpoint's: weights are transposed, rows of q and k are permuted
for rotary embedding, q, k and v may be one weight. A block always runs along the input axis of one row, so rows are
found by content: a digest of a row's numbers, in the compute type, leads to the row of the checkpoint.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from pipeline.core.arrays import Floats
from pipeline.core.tables.formats import BLOCKS, FORMATS, Format, Weights
from pipeline.packed.integers import Packed
from pipeline.packed.source import of_link
from pipeline.quantization.gguf_blocks import KINDS, Bytes, unpack
from pipeline.quantization.grids import CHUNK, Grid, largest_block

if TYPE_CHECKING:
    from pipeline.packed.folder import PackedFolder

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint as rows [N, K] on a grid. grid, values: of the rows at these indices; the values are
    those that the original model has. bits: that the integers need."""

    kind: str
    bits: int
    shape: tuple[int, int]
    grid: Callable[[Places], Grid]
    values: Callable[[Places], Floats]


def is_gguf(path: Path) -> bool:
    """Whether this is a GGUF file, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def of_checkpoint(link: Path) -> Iterator[StoredTensor]:
    """The tensors of a point's `checkpoint` that are on a grid; none for a checkpoint that is not quantized."""
    if is_gguf(link):
        yield from of_gguf(link)
    elif link.exists() and (folder := of_link(link)) is not None:
        from pipeline.packed.folder import PackedFolder  # imports torch, which other checkpoints do without

        yield from of_folder(PackedFolder(folder))


def of_gguf(path: Path) -> Iterator[StoredTensor]:
    """The tensors of a GGUF file whose blocks can be carried over; experts' matrices stand below each other."""

    def grid(data: Bytes, kind: GGMLQuantizationType, rows: Places) -> Grid:
        return unpack(data[rows], kind)

    def values(data: Bytes, kind: GGMLQuantizationType, rows: Places) -> Floats:
        return np.asarray(gguf.quants.dequantize(data[rows], kind))

    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type
        if kind in KINDS:
            data = tensor.data.reshape(-1, tensor.data.shape[-1])
            shape = len(data), int(tensor.shape[0])
            yield StoredTensor(kind.name, KINDS[kind][1], shape, partial(grid, data, kind), partial(values, data, kind))


def of_folder(folder: "PackedFolder") -> Iterator[StoredTensor]:
    """The weights of a quantized folder that are integers in blocks; their columns may be in an order of their own."""
    recent = functools.lru_cache(maxsize=2)(folder.unpacked)  # a weight is unpacked as a whole, and read in parts

    def part(name: str, rows: Places) -> Packed:
        weight = recent(name)
        assert isinstance(weight, Packed)
        return weight.part(rows)

    def grid(name: str, block: int, rows: Places) -> Grid:
        return of_packed(part(name, rows), block)

    def values(name: str, rows: Places) -> Floats:
        return part(name, rows).values()

    for name in folder.layers:
        weight = recent(name)
        if isinstance(weight, Packed) and (block := _block(weight)) is not None:
            bits, (n, k) = 4 if weight.bits <= 4 else 8, weight.q.shape
            yield StoredTensor(folder.method, bits, (n, k), partial(grid, name, block), partial(values, name))


def _block(weight: Packed) -> int | None:
    """The size of blocks that a weight can have; None where its groups are of different sizes, or no size divides
    them."""
    k, groups = weight.q.shape[1], weight.scale.shape[1]
    if (np.bincount(weight.groups, minlength=groups) * groups != k).any():
        return None
    size: int = k // groups
    if weight.bits == 8 and groups == 1 and not weight.zero.any():
        return size
    return largest_block(size, size if size in BLOCKS else 128)


def of_packed(weight: Packed, block: int) -> Grid:
    """A weight as a grid: its zero points z become offsets, s (q - z) = s q - s z."""
    repeats = weight.q.shape[1] // weight.scale.shape[1] // block
    scale: Floats = np.repeat(weight.scale, repeats, axis=1)
    offset: Floats = -scale * np.repeat(weight.zero, repeats, axis=1).astype(np.float32)
    fmt = FORMATS[Weights.int4 if weight.bits <= 4 else Weights.int8]
    order = None if weight.in_order else np.argsort(weight.groups, kind="stable")
    q = (weight.q if order is None else weight.q[:, order]).astype(np.int8)
    return Grid(q, scale, offset if weight.zero.any() else None, fmt, order).divisible()


def digests(rows: npt.NDArray[np.floating]) -> list[bytes]:
    """A digest of each row's numbers; 0 and -0 are one number."""
    return [hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(rows + 0)]


class CheckpointRows:
    """The rows of a checkpoint's tensors, to be looked up by their numbers in type `dtype`."""

    def __init__(self, tensors: Iterable[StoredTensor], dtype: npt.DTypeLike) -> None:
        self._dtype = dtype
        # the fewest bits first: a row of zeros is found in these
        self._tensors = sorted(tensors, key=lambda tensor: tensor.bits)
        self._rows: dict[bytes, tuple[int, int]] = {}  # digest -> tensor, row
        for number, tensor in enumerate(self._tensors):
            for rows in _chunks(tensor.shape):
                # minimums or scales in fp32 may leave the range of fp16
                with np.errstate(over="ignore"):
                    values = tensor.values(rows).astype(dtype)
                for row, digest in zip(rows.tolist(), digests(values), strict=True):
                    self._rows.setdefault(digest, (number, row))

    def locate(self, rows: npt.NDArray[np.floating]) -> Places:
        """Where rows [N, K] are in the checkpoint, [N, 2]: tensor and row, -1 for a row that is not there."""
        found: list[bytes] = []
        for part in _chunks(rows.shape):
            found += digests(np.ascontiguousarray(rows[part]).astype(self._dtype))
        return np.array([self._rows.get(digest, (-1, -1)) for digest in found], np.int64).reshape(-1, 2)

    def bits(self, places: Places) -> npt.NDArray[np.int64]:
        """The bits that located rows need, [N]; 0 for a row that is not there."""
        return np.array([*(tensor.bits for tensor in self._tensors), 0], np.int64)[places[:, 0]]

    def kinds(self, places: Places) -> list[str]:
        """The kinds of tensors that located rows are of."""
        return sorted({self._tensors[number].kind for number in np.unique(places[:, 0])})

    def grid(self, places: Places, fmt: Format) -> Grid | None:
        """The grid of located rows, in a format that has the bits for it. Blocks are those of the smallest.

        None where the rows' columns are in different orders.
        """
        numbers = np.unique(places[:, 0])
        which = [places[:, 0] == number for number in numbers]
        grids = [self._tensors[n].grid(places[w, 1]) for n, w in zip(numbers, which, strict=True)]
        order = grids[0].order
        if not all(np.array_equal(grid.order, order) for grid in grids):
            return None
        block, k = math.gcd(*(grid.block for grid in grids)), grids[0].q.shape[1]
        q = np.empty((len(places), k), np.int8)
        scale, offset = np.zeros((2, len(places), k // block), np.float32)
        for here, grid in zip(which, grids, strict=True):
            repeats = grid.block // block
            q[here], scale[here] = grid.q, np.repeat(grid.scale, repeats, axis=1)
            if grid.offset is not None:
                offset[here] = np.repeat(grid.offset, repeats, axis=1)
        return Grid(q, scale, offset if offset.any() else None, fmt, order)


def _chunks(shape: tuple[int, ...]) -> Iterator[Places]:
    """Indices of rows, some at a time."""
    step = max(1, CHUNK // shape[1])
    for start in range(0, shape[0], step):
        yield np.arange(start, min(start + step, shape[0]))
