"""Stage toolchain: write artifacts/toolchain.json, the versions and the hardware that results depend on.

It runs at every `dvc repro`. Each stage declares the keys that it depends on and runs again when one of them changes.
Only the metadata of packages is read, nothing is imported: that takes a tenth of a second.
"""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.core import errors, hardware, layout, usage
from pipeline.core.files import write_json
from pipeline.core.tables.engines import KINDS, EngineKind

TARGET = Path(layout.TOOLCHAIN)
PACKAGES = {  # key -> the distributions that may provide it, the first one installed counts
    "torch": ("torch",),
    "transformers": ("transformers",),
    "gguf": ("gguf",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxsim": ("onnxsim",),
    "onnxruntime_genai": ("onnxruntime-genai",),
    **{kind.value: KINDS[kind].distributions for kind in EngineKind},
}


def installed(distributions: tuple[str, ...]) -> str | None:
    """The version of the first of these distributions that is installed; PYTHONPATH comes before site-packages."""
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def gpu() -> str | None:
    """Names and compute capabilities of the NVIDIA GPUs, such as "NVIDIA H200, 9.0"; None without one."""
    return "; ".join(sorted({f"{name}, {capability}" for name, capability in hardware.gpus()})) or None


def cpu() -> str:
    """The processor's name and its number of cores, such as "AMD EPYC 7763, 2 cores"."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.M) if info.exists() else None
    return f"{name[1].strip() if name else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Write the file."""
    usage.no_arguments(main, "toolchain", "It runs in the root of the repository.")
    versions = {key: installed(distributions) for key, distributions in PACKAGES.items()}
    write_json(TARGET, {"python": platform.python_version(), **versions, "gpu": gpu(), "cpu": cpu()})


if __name__ == "__main__":
    errors.run(main)
