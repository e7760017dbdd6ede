"""Read a GGUF file's header without trusting it, and find what is wrong with the file before anything is loaded.

gguf's own reader trusts every count in the file: a damaged one ends in a traceback, or in as much memory as it claims.
Here each count and length is checked against the bytes that are left.
"""

import functools
import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.pre_tokenizers import ADD_BOS, EXPRESSIONS
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import readable

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# value type -> struct format; 8 is a string, 9 an array
FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_DIMENSIONS = 4  # ggml's own limit
DOWNLOAD = "download or convert it again; the file is damaged"
SAFETENSORS = "use the model's safetensors: source local or hub"  # what to do with a file that cannot be built
KEPT = 4096  # numbers of an array that are read: one a layer, never one a token

# elements of a block -> a tensor's type -> bytes of a block: gguf's own table, whose import takes 0.4 s
_SIZES = {
    1: {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2},  # plain numbers
    32: {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 9: 40, 20: 18, 39: 17},
    256: {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74}
    | {18: 98, 19: 50, 21: 110, 22: 82, 23: 136, 29: 56, 34: 54, 35: 66},
    64: {40: 36},
    128: {41: 18},
}
BLOCKS = {kind: (elements, size) for elements, sizes in _SIZES.items() for kind, size in sizes.items()}

# pre-tokenizers belong to byte-level BPE; what the others are is told by tokenizer.ggml.model alone
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"
END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")  # of text, turn, message; behind tokenizer.ggml.
SCALINGS = ("none", "linear", "yarn")  # of rotary positions, that pipeline.checkpoint.gguf_model applies
FREQUENCIES = "rope_freqs.weight"  # the tensor with a rotary factor for each pair of dimensions
SCALED_ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen2moe", "qwen3moe", "gemma3")


class DamagedError(Exception):
    """The bytes of a GGUF file are damaged; the message says where."""


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
        """Whether it is a Gemma: its tokenizer adds no space before a text."""
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

    @property
    def edge_tokens(self) -> tuple[int | None, int | None]:
        """The tokens that llama.cpp puts before and behind every text, each None where it puts none."""
        sentencepiece = self.metadata.get("tokenizer.ggml.model") == SENTENCEPIECE
        starts = sentencepiece or self.pre_tokenizer in ADD_BOS

        def edge(name: str, added: bool, default: int) -> int | None:
            if not self.metadata.get(f"tokenizer.ggml.add_{name}_token", added):
                return None
            # where the file names no token, llama.cpp takes sentencepiece's own number
            return self.metadata.get(f"tokenizer.ggml.{name}_token_id", default if sentencepiece else None)

        return edge("bos", starts, 1), edge("eos", False, 2)

    @property
    def rotary_scaling(self) -> tuple[Any, Any]:
        """Kind and factor of the scaling of rotary positions by llama.cpp's rules: linear where only a factor is given,
        none where linear has no factor. The factor is 0.0 where the file gives none."""
        kind = self.get("rope.scaling.type", "linear")
        factor = self.get("rope.scaling.factor", self.get("rope.scale_linear", 0.0))
        return "none" if kind == "linear" and factor in (0.0, 1.0) else kind, factor


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
    """Return every problem of a sound header that describes a model that cannot be built. Raises UserError when the
    header is damaged."""
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
        found.append(Problem(what, "model.path", SAFETENSORS))
    others = [*_edge_tokens(header), *_rotary(header)]
    return found + [Problem(f"{path}: {what}", "model.path", SAFETENSORS) for what in others]


def _edge_tokens(header: Header) -> Iterator[str]:
    size = header.metadata.get("tokenizer.ggml.tokens")
    if header.metadata.get("tokenizer.ggml.model") not in (BYTE_LEVEL, SENTENCEPIECE) or not isinstance(size, int):
        return
    for name, number in zip(("bos", "eos"), header.edge_tokens, strict=True):
        if number is not None and not (type(number) is int and 0 <= number < size):
            yield f"tokenizer.ggml.{name}_token_id is {number!r}, which is not one of its {size} tokens"


def _rotary(header: Header) -> list[str]:
    names = {tensor.name for tensor in header.tensors}
    found = [
        f"its rotary factors {name} (longrope) are not applied from GGUF files"
        for name in ("rope_factors_long.weight", "rope_factors_short.weight")
        if name in names
    ]
    kind, factor = header.rotary_scaling
    key = f"{header.architecture}.rope.scaling"
    if kind not in SCALINGS:
        if not found:
            found.append(f"{key}.type is {kind!r}; {', '.join(SCALINGS)} are applied")
        return found
    if (kind != "none" or FREQUENCIES in names) and header.architecture not in SCALED_ARCHITECTURES:
        what = f"the rotary scaling of {header.architecture} is not applied from GGUF files"
        found.append(f"{what}; it is for {', '.join(SCALED_ARCHITECTURES)}")
    if kind == "yarn" and factor == 0.0:
        found.append(f"{key}.type is yarn and the file gives no factor ({key}.factor)")
    elif kind != "none" and not (isinstance(factor, int | float) and 0 < factor < math.inf):
        found.append(f"{key}.factor is {factor!r}, which is not a positive number")
    return found
