"""What releases of TensorRT have of the API that pipeline/ uses.

    python -m tests.support.tensorrt_releases FILE    # write the table

Releases are the real Python bindings, imported without TensorRT's libraries: the wheels of the bindings (1.3 MB each)
come from the package index, and gcc makes libraries with the symbols that they need. They show names and signatures;
they can neither build nor run. TensorRT-RTX is the one that is installed.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from tests.support.tensorrt_uses import GUARDS, Uses, uses

# The oldest that pyproject.toml allows, the last of each minor release, the newest; and the one that is installed.
RELEASES = ("10.15.1.29", "10.16.1.11", "11.0.0.114", "11.1.0.106", "11.2.1.2", "11.3.0.99", "11.4.0.106")
RTX = "RTX"
TOO_OLD = "10.14.1.48.post1"  # the last before them
WHEELS = Path.home() / ".cache" / "kvforge" / "tensorrt-bindings"
PROBE = """
import json, sys, {module} as trt
def signatures(kind):
    return {{n: getattr(getattr(kind, n), "__doc__", None) or "" for n in dir(kind)}}
kinds = {{n: v for n, v in vars(trt).items() if isinstance(v, type)}} | {{"ILogger.Severity": trt.ILogger.Severity}}
json.dump({{"": dict.fromkeys(dir(trt), "")}} | {{n: signatures(v) for n, v in kinds.items()}}, sys.stdout)
"""
Release = dict[str, dict[str, str]]  # class, or "" for the module -> its names -> their docstrings


def release(version: str) -> Release:
    """The API of a release. Raises CalledProcessError where its wheel cannot be fetched."""
    if version == RTX:
        return _probe("tensorrt_rtx_bindings", {})
    folder = WHEELS / f"{version}-{sys.implementation.cache_tag}"
    if not (folder / "tensorrt_bindings").is_dir():
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, f"tensorrt-cu13-bindings=={version}"], check=True, capture_output=True)
        for wheel in folder.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(folder)
    _libraries(folder, folder / "tensorrt_bindings" / "tensorrt.so")
    return _probe("tensorrt_bindings", {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)})


def _probe(module: str, environment: dict[str, str]) -> Release:
    """Import bindings in a process of their own: two cannot be in one."""
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, env=os.environ | environment, check=True, capture_output=True, text=True)
    found: Release = json.loads(done.stdout)
    return found


def _libraries(folder: Path, bindings: Path) -> None:
    """Make the libraries that bindings are linked with: their symbols are functions that do nothing."""
    wanted = re.findall(r"NEEDED.*\[(libnv\S+)\]", _said("readelf", "-d", bindings))
    symbols = re.findall(r"^ +U (\w+)$", _said("nm", "-D", "--undefined-only", bindings), re.M)  # those of libc have @
    source = "".join(
        f"void *{name}(void) {{ return 0; }}\n" for name in symbols if not hasattr(ctypes.CDLL(None), name)
    )
    for library in wanted:
        command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", folder / library, f"-Wl,-soname,{library}"]
        subprocess.run(command, input=source, text=True, check=True)


def _said(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def has(api: Release, name: str) -> bool:
    """Whether a release has a name."""
    kind, _, member = name.rpartition(".")
    return member in api.get(kind, {}) or name in api


def guarded(found: Uses, name: str, module: str, api: Release) -> bool:
    """Whether a module looks for something before it uses a name, that the release does not have either."""
    return any(
        module in found.sought.get(guard, ()) and not has(api, guard)
        for guard, names in GUARDS.items()
        if any(fnmatchcase(name, pattern) for pattern in names)
    )


def signatures(api: Release, name: str) -> list[tuple[int, int]]:
    """How many arguments a function must and may be called with, for each overload in its docstring."""
    kind, _, member = name.rpartition(".")
    found = re.findall(rf"(?:^|\. ){member}\(self: (.*)\) ->", api.get(kind, {}).get(member, ""), re.M)
    return [_counts(arguments) for arguments in found]


def takes(api: Release, name: str, count: int) -> bool:
    """Whether a function can be called with so many arguments. A release that lacks it is not asked."""
    found = signatures(api, name)
    return not found or any(least <= count <= most for least, most in found)


def _counts(signature: str) -> tuple[int, int]:
    """How many arguments there must and may be after self: "ILogger, path: str = None" -> 0, 1."""
    while signature != (signature := re.sub(r"\[[^\[\]]*\]|\([^()]*\)|<[^<>]*>", "", signature)):
        pass
    arguments = signature.split(", ")[1:]
    return sum(" = " not in argument for argument in arguments), len(arguments)


INTRODUCTION = """\
# TensorRT's releases

Names of TensorRT's Python API that kvforge uses, and the releases that have them: {releases}; and TensorRT-RTX as in
`requirements.lock`. A name that some releases lack is used only after a check that it exists.

`make tensorrt-releases` writes this page from the real Python bindings of each release, imported without its libraries.
So it shows that names exist; `tests/runtime/test_tensorrt_releases.py` also compares how many arguments each call has.
It does not show that an engine builds or runs.
"""


def table() -> Iterator[str]:
    """The names that are used and the releases that have them, in Markdown."""
    versions = (*RELEASES, RTX)
    apis = [release(version) for version in versions]
    short = [".".join(version.split(".")[:2]) for version in RELEASES]
    yield INTRODUCTION.format(releases=", ".join(RELEASES))
    yield "| name | " + " | ".join((*short, "RTX")) + " |"
    yield "|---|" + ":-:|" * len(versions)
    for name in sorted(uses().names, key=lambda name: (name.rpartition(".")[0] or name, "." in name, name)):
        shown = name if "." in name else f"**{name}**"
        yield f"| {shown} | " + " | ".join("✓" if has(api, name) else "" for api in apis) + " |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(table()) + "\n", encoding="utf-8")
