"""Read a GGUF file's header without trusting it, and say what is wrong with the file before anything is loaded.

gguf's own reader takes every count in the file at its word: a damaged one ends in a traceback, or in as much memory as
the count says. Here each count and length is held against the bytes that are left. 0.05 s for a vocabulary of 262,144.
"""

import functools
import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import Problem, UserError
from pipeline.files import readable
from pipeline.pre_tokenizers import EXPRESSIONS

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# value type -> struct format; 8 is a string, 9 an array
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4  # ggml's own limit
DOWNLOAD = "download or convert it again; the file is damaged"
KEPT = 4096  # numbers of an array that are read: one a layer, never one a token

# a tensor's type -> elements and bytes of a block: gguf's own table, whose import takes 0.4 s
BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    30: (1, 2),  # plain numbers
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    20: (32, 18),
    39: (32, 17),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    29: (256, 56),
    34: (256, 54),
    35: (256, 66),
    40: (64, 36),
    41: (128, 18),
}

# pre-tokenizers belong to byte-level BPE; what the others are is told by tokenizer.ggml.model alone
BYTE_LEVEL = "gpt2"
END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of text, turn, message; behind tokenizer.ggml.
SCALINGS = ("none", "linear", "yarn")  # of rotary positions, that pipeline.gguf_rope applies
SCALED_ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma3")


class DamagedError(Exception):
    """What is wrong with the bytes of a GGUF file."""


@dataclass(frozen=True)
class Tensor:
    """An entry of the tensor table; shape in PyTorch's order."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """metadata: key -> number or text; of an array of up to KEPT numbers a list, of any other array its length."""

    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(self.metadata["general.architecture"])

    @property
    def is_gemma(self) -> bool:
        """Whether it is a Gemma, whose texts never begin with a space that they have not."""
        return self.architecture.startswith("gemma")

    def get(self, key: str, default: Any = None) -> Any:
        """The value of the architecture's own key, such as "rope.freq_base"."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    @property
    def pre_tokenizer(self) -> str | None:
        """The name of the pre-tokenizer; None for a tokenizer that has none. A file without a name means "default"."""
        if self.metadata.get("tokenizer.ggml.model") != BYTE_LEVEL:
            return None
        return str(self.metadata.get("tokenizer.ggml.pre", "default"))


class _Bytes:
    """A file's bytes and a position in them that never leaves them."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.size = data, 0, len(data)

    def take(self, form: str) -> tuple[Any, ...]:
        """The next values of a struct format without its byte order."""
        width = struct.calcsize("<" + form)
        if width > self.size - self.at:
            raise DamagedError(f"it ends at byte {self.size}, within its header")
        self.at += width
        return struct.unpack_from("<" + form, self.data, self.at - width)

    def string(self) -> str:
        """The next text."""
        (length,) = self.take("Q")
        if length > self.size - self.at:
            raise DamagedError(f"a text at byte {self.at} claims {length} bytes, and {self.size - self.at} are left")
        self.at += length
        try:
            return self.data[self.at - length : self.at].decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"the text at byte {self.at - length} is not UTF-8") from error

    def count(self, number: int, least: int, what: str) -> int:
        """`number` of things that take at least `least` bytes each, checked against the bytes left."""
        if number > (self.size - self.at) // least:
            raise DamagedError(f"it claims {number} {what}, which do not fit into the {self.size - self.at} bytes left")
        return number

    def value(self, kind: int) -> Any:
        """The next value of metadata."""
        if kind in FORMATS:
            return self.take(FORMATS[kind])[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise DamagedError(f"metadata at byte {self.at} has the unknown type {kind}")
        element, number = self.take("IQ")
        if element in FORMATS:
            width = struct.calcsize("<" + FORMATS[element])
            self.count(number, width, "numbers")
            if number <= KEPT:
                return list(self.take(f"{number}{FORMATS[element]}"))
            self.at += number * width
        elif element == STRING:
            self._skip_strings(self.count(number, 8, "texts"))
        else:
            raise DamagedError(f"metadata at byte {self.at} is an array of the unknown type {element}")
        return number

    def _skip_strings(self, number: int) -> None:
        data, at, last, length = self.data, self.at, self.size - 8, struct.Struct("<Q").unpack_from
        for _ in range(number):
            if at > last:
                raise DamagedError(f"it ends at byte {self.size}, within its header")
            at += 8 + length(data, at)[0]
        if at > self.size:
            raise DamagedError(f"it ends at byte {self.size}, within its header")
        self.at = at


def _parse(data: mmap.mmap) -> Header:
    if data[:4] != MAGIC:
        raise DamagedError("it does not begin with the letters GGUF")
    read = _Bytes(data)
    read.at = 4
    (version,) = read.take("I")
    if version not in VERSIONS:
        big = version in {v << 24 for v in VERSIONS}
        raise DamagedError("it is big-endian" if big else f"its version is {version}, and 2 and 3 are known")
    tensors, keys = read.take("QQ")
    read.count(tensors, 24, "tensors")
    read.count(keys, 13, "keys")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = read.string()
        if key in metadata:
            raise DamagedError(f"it has the key {key} twice")
        (kind,) = read.take("I")
        metadata[key] = read.value(kind)
    if not isinstance(metadata.get("general.architecture"), str):
        raise DamagedError("it has no general.architecture")
    table = []
    for _ in range(tensors):
        name = read.string()
        (dimensions,) = read.take("I")
        if dimensions > MAX_DIMENSIONS:
            raise DamagedError(f"tensor {name} claims {dimensions} dimensions")
        shape = read.take(f"{dimensions}Q")
        table.append(Tensor(name, tuple(reversed(shape)), *read.take("IQ")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise DamagedError(f"general.alignment is {alignment}")
    _check_size(table, -(-read.at // alignment) * alignment, read.size)
    return Header(metadata, tuple(table))


def _check_size(tensors: list[Tensor], start: int, size: int) -> None:
    for tensor in tensors:
        if tensor.kind not in BLOCKS:
            raise DamagedError(f"tensor {tensor.name} has the unknown type {tensor.kind}")
        elements, bytes_each = BLOCKS[tensor.kind]
        end = start + tensor.offset + math.prod(tensor.shape) // elements * bytes_each
        if end > size:
            raise DamagedError(f"it has {size} bytes, and tensor {tensor.name} ends at byte {end}")


def read(path: Path) -> Header:
    """The header of a GGUF file. Raises UserError when it cannot be read, is damaged or cut off."""
    with readable(path, "model.path"):
        stat = path.stat()
        return _read(path.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int) -> Header:
    try:
        if size < len(MAGIC):
            raise DamagedError(f"it has {size} bytes")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(data)
    except DamagedError as error:
        raise UserError(Problem(f"{path} cannot be read as GGUF: {error}", "model.path", DOWNLOAD)) from error


def problems(path: Path) -> list[Problem]:
    """What a sound header says that cannot be built, all of it. Raises UserError when the header is damaged."""
    header = read(path)
    found = []
    parts = header.metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        what = f"{path} is one of {parts} parts of a split model"
        stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
        first = f"{stem}-00001-of-{parts:05d}.gguf"
        fix = f"merge them first: llama-gguf-split --merge {first} merged.gguf"
        found.append(Problem(what, "model.path", fix))
    name = header.pre_tokenizer
    if name is not None and name not in EXPRESSIONS:
        what = f"{path} names the pre-tokenizer {name!r} (tokenizer.ggml.pre), which is not known here"
        fix = "use the model's safetensors: source local or hub"
        found.append(Problem(what, "model.path", fix))
    found += [Problem(f"{path}: {what}", "model.path", fix) for what, fix in _rotary(header)]
    return found


def _rotary(header: Header) -> list[tuple[str, str]]:
    fix = "use the model's safetensors: source local or hub"
    names = {tensor.name for tensor in header.tensors}
    found = [
        (f"its rotary factors {name} (longrope) are not applied from GGUF files", fix)
        for name in ("rope_factors_long.weight", "rope_factors_short.weight")
        if name in names
    ]
    kind = header.get("rope.scaling.type", "none")
    scaled = kind != "none" or header.get("rope.scale_linear", 1.0) not in (0.0, 1.0) or "rope_freqs.weight" in names
    if kind not in SCALINGS and not found:
        key = f"{header.architecture}.rope.scaling.type"
        found.append((f"{key} is {kind!r}; {', '.join(SCALINGS)} are applied", fix))
    elif scaled and header.architecture not in SCALED_ARCHITECTURES:
        what = f"the rotary scaling of {header.architecture} is not applied from GGUF files"
        found.append((f"{what}; it is for {', '.join(SCALED_ARCHITECTURES)}", fix))
    return found
