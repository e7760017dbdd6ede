"""What the kernel says of this process' memory afterwards, and that its contents are as they were."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import pages
from tests.points import ROOT

LARGE_PAGES = """
from pipeline import pages
data = b"12" * 2**26  # 128 MiB; numpy asks for large pages itself
before = pages.MAPS.with_name("smaps_rollup").read_text()
pages.enlarge()
after = pages.MAPS.with_name("smaps_rollup").read_text()
assert data == b"12" * 2**26
print(*(text.partition("AnonHugePages:")[2].split()[0] for text in (before, after)))
"""


@pytest.mark.skipif(not pages.MAPS.exists(), reason="needs Linux")
def test_a_mapped_file_gives_its_pages_back(tmp_path: Path) -> None:
    """What was read of a mapped file no longer counts as this process' memory, and reads as before."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 2**15)  # 8 MiB
    mapped = np.memmap(path, np.uint8, "c")
    total = int(mapped.sum())

    def resident() -> int:
        (kib,) = re.findall(rf"{re.escape(str(path))}\n(?:.*\n)*?Rss: +(\d+) kB", Path("/proc/self/smaps").read_text())
        return int(kib)

    assert resident() >= 8192
    pages.forget(path)
    assert resident() == 0
    assert int(mapped.sum()) == total


@pytest.mark.skipif(not pages.MAPS.exists(), reason="needs Linux")
def test_large_allocations_move_to_large_pages() -> None:
    """At least half of an array of 128 MiB, in a process of its own; nothing where the kernel has no large pages."""
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not enabled.exists() or "[never]" in enabled.read_text():
        pytest.skip("the kernel has no transparent large pages")
    done = subprocess.run([sys.executable, "-c", LARGE_PAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after >= before
    if "[always]" not in enabled.read_text():
        assert (before, after >= 2**16) == (0, True)
