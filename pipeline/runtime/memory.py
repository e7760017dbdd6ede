"""Pages of this process's memory, on Linux: huge ones for weights, and none for weights that are not read.

On other systems nothing is done.
"""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

SMAPS = Path("/proc/self/smaps")
MAPS = Path("/proc/self/maps")
MADV_DONTNEED, MADV_COLLAPSE = 4, 25  # sys/mman.h
HUGE = 2**21  # bytes of a huge page on x86-64 and most ARM64
AT_ONCE = 8 * HUGE  # bytes that are moved in one call
SMALLEST = 2 * HUGE  # an allocation of fewer bytes stays as it is

AddressRange = tuple[int, int]  # first address, and the one after the last


def release_mapped(file: Path) -> None:
    """Release the pages of a mapped file that this process holds; one that is read again comes from the page cache.

    ONNX Runtime packs the weights of products into memory of its own and keeps the file mapped for the others. A tied
    embedding is both: held whole as the LM head, while one row per token is read of the mapped one (113 MB of
    SmolLM2-135M). A mapping in which a page was written no longer equals the file and is left alone.
    """
    if SMAPS.exists():
        text = SMAPS.read_text(encoding="utf-8", errors="surrogateescape")
        entry = rf"(?m)^(\w+)-(\w+) rw-p \S+ \S+ \d+ *{re.escape(str(file.resolve()))}\n((?:\w+: .*\n)+)"
        for start, end, figures in re.findall(entry, text):
            # pages of its own, in memory and swapped out; Private_Dirty also counts the file's while it is being saved
            if re.findall(r"(?m)^(?:Anonymous|Swap): +(\d+) kB", figures) == ["0", "0"]:
                _advise((int(start, 16), int(end, 16)), MADV_DONTNEED)


@contextmanager
def use_huge_pages() -> Iterator[Thread]:
    """Move allocations of 4 MiB or more that are made inside this context to huge pages.

    They move in the thread that is yielded, which the caller starts after the context: moving the weights takes longer
    than loading them, and a first token need not wait for it.

    A decode step reads all weights. With pages of 4 KiB the processor translates 130,000 addresses for SmolLM2-135M; on
    huge pages a step takes 4 % less time in fp32, 5 % less in int8. A kernel before 6.1 refuses. Memory that the
    process held before is left alone: it may belong to a host application.
    """
    before = list(_anonymous())
    found: list[AddressRange] = []
    thread = Thread(target=_collapse, args=(found,), daemon=True)  # a process that is done does not wait for it
    yield thread
    for after in _anonymous():
        found.extend((start, end) for start, end in _without(after, before) if end - start >= SMALLEST)


def _collapse(ranges: list[AddressRange]) -> None:
    """Move ranges to huge pages, a few at a time: the kernel stops no other thread for long, and a process can end."""
    for start, end in ranges:
        for first in range(-(-start // HUGE) * HUGE, end // HUGE * HUGE, AT_ONCE):
            _advise((first, min(first + AT_ONCE, end // HUGE * HUGE)), MADV_COLLAPSE)


def _anonymous() -> Iterator[AddressRange]:
    """Each private writable mapping without a file, in the order of addresses."""
    if MAPS.exists():
        text = MAPS.read_text(encoding="utf-8", errors="surrogateescape")
        for start, end in re.findall(r"(?m)^(\w+)-(\w+) rw-p \S+ \S+ \d+ *(?:\[heap\])?$", text):
            yield int(start, 16), int(end, 16)


def _without(whole: AddressRange, parts: list[AddressRange]) -> Iterator[AddressRange]:
    """What is left of a range without others, which are in order: the kernel joins mappings that touch."""
    start, end = whole
    for first, last in parts:
        if first < end and last > start:
            if first > start:
                yield start, first
            start = max(start, last)
    if start < end:
        yield start, end


def _advise(where: AddressRange, advice: int) -> None:
    """Advise the kernel, which may refuse: then nothing changes."""
    ctypes.CDLL(None).madvise(ctypes.c_void_p(where[0]), ctypes.c_size_t(where[1] - where[0]), advice)
