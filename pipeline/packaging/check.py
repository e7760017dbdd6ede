"""Check that the files of this folder are as they were packaged: python check.py [FOLDER]

Needs Python and nothing else. Every file that SHA256SUMS lists is read; one that is missing or changed is named, and
the exit code is 1. `sha256sum --check SHA256SUMS` does the same. This finds damage, not an attacker, who would change
SHA256SUMS too: compare its own checksum, printed last, with the publisher's.
"""

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUMS = "SHA256SUMS"
BLOCK = 1 << 22  # bytes


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Other threads run meanwhile."""
    found, buffer = hashlib.sha256(), bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            found.update(memoryview(buffer)[:size])
    return found.hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """What SHA256SUMS says: file -> SHA-256. Raises OSError or ValueError when it cannot be read."""
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("  ", 1) for line in lines]
    if not pairs or not all(len(pair) == 2 and len(pair[0]) == 64 for pair in pairs):
        raise ValueError("it is empty, or a line is not a checksum, two spaces and a name")
    return {name: digest for digest, name in pairs}


def problems(folder: Path) -> Iterator[str]:
    """Yield a line for each file that is missing, changed or cannot be read."""
    try:
        sums = listed(folder)
    except (OSError, ValueError) as error:
        yield f"{SUMS}: cannot be read: {error}"
        return
    largest_first = sorted(sums, key=lambda name: -_size(folder / name))
    with ThreadPoolExecutor() as pool:
        states = pool.map(lambda name: _state(folder / name, sums[name]), largest_first)
        found = dict(zip(largest_first, states, strict=True))
    for name in sums:
        if found[name]:
            yield f"{name}: {found[name]}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _state(path: Path, expected: str) -> str:
    """What is wrong with a file; empty when nothing is."""
    if not path.is_file():
        return "missing"
    try:
        return "" if sha256(path) == expected else "changed"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def main() -> int:
    """Check the folder of the command line, or the one of this file; return the exit code."""
    if len(sys.argv) > 2 or "--help" in sys.argv:
        print(__doc__)
        return 0 if "--help" in sys.argv else 1
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(__file__).parent
    found = list(problems(folder))
    if found:
        print(*found, "fix: download the named files again", sep="\n", file=sys.stderr)
        return 1
    print(f"{len(listed(folder))} files are as they were packaged; {SUMS} itself: {sha256(folder / SUMS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
