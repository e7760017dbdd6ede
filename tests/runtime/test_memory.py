"""What the kernel says of this process' memory afterwards, and that its contents are as they were."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.runtime import memory
from tests.support.points import ROOT

LARGE_PAGES = """
from pipeline.runtime import memory
theirs = b"12" * 2**26  # 128 MiB; numpy asks for large pages itself
def large():
    return memory.MAPS.with_name("smaps_rollup").read_text().partition("AnonHugePages:")[2].split()[0]
before = large()
with memory.use_huge_pages() as moving:
    pass
moving.start()
moving.join()
host = large()
with memory.use_huge_pages() as moving:
    ours = b"34" * 2**26
moving.start()
moving.join()
assert (theirs, ours) == (b"12" * 2**26, b"34" * 2**26)
print(before, host, large())
"""


@pytest.mark.skipif(not memory.MAPS.exists(), reason="needs Linux")
def test_a_mapped_file_gives_its_pages_back(tmp_path: Path) -> None:
    """What was read of a mapped file no longer counts as this process' memory, and reads as before."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 2**15)  # 8 MiB
    mapped = np.memmap(path, np.uint8, "c")
    total = int(mapped.sum())

    def resident() -> int:
        (kib,) = re.findall(
            rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text(encoding="utf-8")
        )
        return int(kib)

    assert resident() >= 8192
    memory.release_mapped(path)
    assert resident() == 0
    assert int(mapped.sum()) == total


@pytest.mark.skipif(not memory.MAPS.exists(), reason="needs Linux")
def test_a_mapping_that_was_written_is_left_alone(tmp_path: Path) -> None:
    """One page of a private mapping that differs from the file must not go back to what the file has."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(2**23))
    mapped = np.memmap(path, np.uint8, "c")
    assert int(mapped.sum()) == 0
    mapped[5_000_000] = 7
    memory.release_mapped(path)
    assert int(mapped.sum()) == mapped[5_000_000] == 7
    assert path.read_bytes() == bytes(2**23)


@pytest.mark.skipif(not memory.MAPS.exists(), reason="needs Linux")
def test_large_allocations_move_to_large_pages() -> None:
    """At least half of 128 MiB that are allocated inside the context, none of those that were there before it; in a
    process of its own."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[madvise]" not in enabled.read_text(encoding="utf-8"):
        pytest.skip("the kernel gives large pages to every process or to none, not to those that ask")
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    before, host, after = map(int, done.stdout.split())
    assert (before, host) == (0, 0)
    assert after >= 2**16


@pytest.mark.parametrize(
    ("whole", "parts", "left"),
    [
        ((10, 20), [], [(10, 20)]),
        ((10, 20), [(10, 20)], []),
        ((10, 20), [(0, 5), (5, 12), (14, 16), (18, 30)], [(12, 14), (16, 18)]),
        ((10, 20), [(12, 14)], [(10, 12), (14, 20)]),
        ((10, 20), [(0, 10), (20, 30)], [(10, 20)]),
    ],
)
def test_what_is_new_of_a_mapping(
    whole: tuple[int, int], parts: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    """The kernel joins an old mapping and a new one that touches it."""
    assert list(memory._without(whole, parts)) == left
