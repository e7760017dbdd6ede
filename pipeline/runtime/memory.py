"""Pages of this process' memory, on Linux: weights on large ones, and none for what is not read. Elsewhere, nothing."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMAPS = Path("/proc/self/smaps")
MAPS = Path("/proc/self/maps")
MADV_DONTNEED, MADV_COLLAPSE = 4, 25  # sys/mman.h
LARGE = 2**21  # bytes of a large page on x86-64 and most ARM64
LEAST = 2 * LARGE

Range = tuple[int, int]  # first address, and the one after the last


def forget(file: Path) -> None:
    """Give back what this process holds of a mapped file; a page that is read again comes from the system's cache.

    ONNX Runtime packs the weights of products into memory of its own, and goes on mapping the file for the others.
    A tied embedding is both: whole in memory as the head, and of the mapped one a row a token is read (113 MB of
    SmolLM2-135M). A mapping of which a page has been written, and so is no longer the file's, is left alone.
    """
    if SMAPS.exists():
        text = SMAPS.read_text(encoding="utf-8", errors="surrogateescape")
        entry = rf"(?m)^(\w+)-(\w+) rw-p \S+ \S+ \d+ *{re.escape(str(file.resolve()))}\n((?:\w+: .*\n)+)"
        for start, end, figures in re.findall(entry, text):
            # pages of its own, in memory and swapped out; Private_Dirty also counts the file's while it is being saved
            if re.findall(r"(?m)^(?:Anonymous|Swap): +(\d+) kB", figures) == ["0", "0"]:
                _advise((int(start, 16), int(end, 16)), MADV_DONTNEED)


@contextmanager
def enlarged() -> Iterator[None]:
    """Move the memory that is allocated inside this context, 4 MiB and more at a time, to large pages.

    A decode step reads all weights, and with pages of 4 KiB the processor looks up 130,000 addresses for SmolLM2-135M:
    on large ones the step takes 4 % less in fp32, 5 % in int8. It costs under a second; a kernel before 6.1 refuses it.
    Memory mapped before belongs to the host application and is left alone.
    """
    before = list(_anonymous())
    yield
    for after in _anonymous():
        for start, end in _without(after, before):
            if end - start >= LEAST:
                _advise((-(-start // LARGE) * LARGE, end // LARGE * LARGE), MADV_COLLAPSE)


def _anonymous() -> Iterator[Range]:
    """Each private writable mapping of no file, in the order of addresses."""
    if MAPS.exists():
        text = MAPS.read_text(encoding="utf-8", errors="surrogateescape")
        for start, end in re.findall(r"(?m)^(\w+)-(\w+) rw-p \S+ \S+ \d+ *(?:\[heap\])?$", text):
            yield int(start, 16), int(end, 16)


def _without(whole: Range, parts: list[Range]) -> Iterator[Range]:
    """What is left of a range without others, which are in order: the kernel joins mappings that touch."""
    start, end = whole
    for first, last in parts:
        if first < end and last > start:
            if first > start:
                yield start, first
            start = max(start, last)
    if start < end:
        yield start, end


def _advise(where: Range, advice: int) -> None:
    """Ask the kernel, which may refuse: then everything stays as it was."""
    ctypes.CDLL(None).madvise(ctypes.c_void_p(where[0]), ctypes.c_size_t(where[1] - where[0]), advice)
