"""Stand-ins for what this machine does not have: packages by their metadata, GPUs by their nvidia-smi."""

import os
from pathlib import Path


def fake_distribution(folder: Path, name: str, number: str) -> None:
    """Write the metadata of a package that is not installed; `folder` belongs on PYTHONPATH."""
    info = folder / f"{name.replace('-', '_')}-{number}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")


def fake_nvidia_smi(folder: Path, script: str) -> str:
    """Return a PATH on which nvidia-smi is the shell script `script`, written to `folder`."""
    folder.mkdir()
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
