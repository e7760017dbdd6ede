"""Read GGUF files through gguf and transformers, without what takes them longest.

Seconds are CPU time, measured with gguf 0.19, transformers 5.23 and SmolLM2-135M, the default point, which the stages
wrap and verify load.
"""

import functools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType

from pipeline.core.patching import patched

Parts = tuple[int, list[Any], list[int], list[GGUFValueType]]  # as gguf has them: size, parts, which are values, types


@contextmanager
def fast_gguf_loading() -> Iterator[None]:
    """Let gguf read an array in one loop, and transformers build a model's table of tensor names once.

    The arrays save 1.7 s each time that the file is read, 3 times in wrap and 3 times in verify: 10 s. The table, which
    transformers builds for each of 800 names, saves 5 s in each of both stages.
    """
    with (
        patched("gguf.GGUFReader", "10 s", _get_field_parts=_arrays_at_once),
        patched("gguf", "10 s", get_tensor_name_map=functools.cache),
    ):
        yield


def _arrays_at_once(original: Callable[..., Parts]) -> Callable[..., Parts]:
    """Return gguf's function that reads a value of metadata, with another way for arrays of strings and of numbers."""

    def read(self: GGUFReader, orig_offs: int, raw_type: int) -> Parts:
        kinds = self.data[orig_offs : orig_offs + 4].view("<u4")
        number = self.gguf_scalar_to_np.get(kinds[0])
        known = number is not None or kinds[0] == GGUFValueType.STRING
        if raw_type != GGUFValueType.ARRAY or not known or self.byte_order == "S":
            return original(self, orig_offs, raw_type)
        data, length = self.data.view(np.ndarray), struct.Struct("<Q").unpack_from
        (count,) = length(data, orig_offs + 4)
        found: list[Any] = [kinds, np.array([count], np.uint64)]
        end = orig_offs + 12
        least = 8 if number is None else np.dtype(number).itemsize
        if count > (len(data) - end) // least:  # before as much memory is asked for as a damaged file claims
            raise ValueError(f"an array at byte {orig_offs} claims {count} values, more than the file has bytes for")
        if number is not None:
            values = data[end : end + count * np.dtype(number).itemsize].view(number)
            kind = [GGUFValueType.ARRAY, *[GGUFValueType(kinds[0])] * bool(count)]
            return 12 + values.nbytes, [*found, *values[:, None]], list(range(2, 2 + count)), kind
        for _ in range(count):
            (size,) = length(data, end)
            found.append(data[end + 8 : end + 8 + size])
            end += 8 + size
        return end - orig_offs, found, list(range(2, 2 + count)), [GGUFValueType.ARRAY, GGUFValueType.STRING]

    return read


def fields(path: Path) -> Any:
    """Return the metadata of a GGUF file as gguf reads them, whole vocabularies included: key -> gguf's ReaderField."""
    with fast_gguf_loading():
        return gguf.GGUFReader(path).fields


@contextmanager
def in_own_folder(path: Path) -> Iterator[dict[str, Any]]:
    """Give the arguments of from_pretrained for a GGUF file, by a link in a folder of its own: transformers would
    prefer a tokenizer.json that happens to lie beside the file."""
    with TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield {"pretrained_model_name_or_path": folder, "gguf_file": path.name}
