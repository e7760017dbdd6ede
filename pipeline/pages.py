"""Pages of this process' memory, on Linux: weights on large ones, and none for what is not read. Elsewhere, nothing."""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

MAPS = Path("/proc/self/maps")
MADV_DONTNEED, MADV_COLLAPSE = 4, 25  # sys/mman.h
LARGE = 2**21  # bytes of a large page on x86-64 and most ARM64
LEAST = 2 * LARGE


def forget(file: Path) -> None:
    """Give back what this process holds of a mapped file; a page that is read again comes from the system's cache.

    ONNX Runtime packs the weights of products into memory of its own, and goes on mapping the file for the others.
    A tied embedding is both: whole in memory as the head, and of the mapped one a row a token is read (113 MB of
    SmolLM2-135M). The mapping must not have been written to.
    """
    for start, end in _mappings(re.escape(str(file.resolve()))):
        _advise(start, end, MADV_DONTNEED)


def enlarge() -> None:
    """Move the memory that this process has allocated, 4 MiB and more at a time, to large pages.

    A decode step reads all weights, and with pages of 4 KiB the processor looks up 130,000 addresses for SmolLM2-135M:
    on large ones the step takes 4 % less in fp32, 5 % in int8. It costs under a second; a kernel before 6.1 refuses it.
    """
    for start, end in _mappings(r"(?:\[heap\])?"):
        if end - start >= LEAST:
            _advise(-(-start // LARGE) * LARGE, end // LARGE * LARGE, MADV_COLLAPSE)


def _mappings(name: str) -> Iterator[tuple[int, int]]:
    """First and last address of each private writable mapping with this name, a regular expression."""
    if MAPS.exists():
        for start, end in re.findall(rf"(?m)^(\w+)-(\w+) rw-p \S+ \S+ \d+ *{name}$", MAPS.read_text()):
            yield int(start, 16), int(end, 16)


def _advise(start: int, end: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), advice)
