"""transformers' loading of GGUF files without its repetitions.

It parses the file's metadata three times, each time value by value in Python, takes every character of 98,000 strings
for a number, and makes its table of tensor names anew for each tensor. Parsed once, strings as strings, SmolLM2-135M
loads in a fifth of the time.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from gguf import GGUFReader, GGUFValueType
from transformers import modeling_gguf_pytorch_utils as loader

from pipeline.core.patching import remembering, replaced

_parse_value = loader._gguf_parse_value


class _Reader(GGUFReader):  # type: ignore[misc]  # its package is not typed
    """GGUFReader that reads an array of strings, such as the vocabulary, in one loop, and one of numbers at once."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        kinds = self.data[orig_offs : orig_offs + 4].view("<u4")
        number = self.gguf_scalar_to_np.get(kinds[0])
        known = number is not None or kinds[0] == GGUFValueType.STRING
        if raw_type != GGUFValueType.ARRAY or not known or self.byte_order == "S":
            parts: tuple[int, list[Any], list[int], list[GGUFValueType]] = super()._get_field_parts(orig_offs, raw_type)
            return parts
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


def _value(part: Any, types: list[int]) -> Any:
    return bytes(part).decode() if types[-1] == GGUFValueType.STRING else _parse_value(part, types)


@contextmanager
def read_once() -> Iterator[None]:
    """Within, transformers loads a GGUF file this way, and once for all that is within; then it leaves memory."""
    if not isinstance(gguf.GGUFReader, type):  # within already
        yield
        return
    reader, names = remembering(_Reader), remembering(gguf.get_tensor_name_map)
    with replaced(gguf, GGUFReader=reader, get_tensor_name_map=names), replaced(loader, _gguf_parse_value=_value):
        yield


def fields(path: Path) -> Any:
    """The metadata of a GGUF file as gguf reads them, whole vocabularies included: key -> gguf's ReaderField."""
    with read_once():
        return gguf.GGUFReader(path).fields


@contextmanager
def alone(path: Path) -> Iterator[dict[str, Any]]:
    """Arguments for from_pretrained that name a GGUF file, by a link in a folder of its own: transformers would prefer
    a tokenizer.json that happens to lie beside the file."""
    with TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield {"pretrained_model_name_or_path": folder, "gguf_file": path.name}
