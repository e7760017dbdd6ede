"""The NVIDIA GPUs of this machine, as nvidia-smi lists them; nothing of CUDA is imported."""

import re
import shutil
import subprocess
from functools import cache


@cache
def gpus() -> tuple[tuple[str, str], ...]:
    """Name and compute capability of each, ("NVIDIA H200", "9.0"); none where there is no GPU or no driver.

    Asked once per process: nvidia-smi takes up to a second.
    """
    rows = [line.rpartition(",") for line in _query("name,compute_cap")]
    return tuple((name.strip(), capability.strip()) for name, _, capability in rows)


def driver() -> str | None:
    """The driver's version, "580.65.06"; None without one."""
    return next(iter(_query("driver_version")), None)


def cuda() -> str | None:
    """The CUDA version that the driver supports, "13.0"; None without a driver."""
    found = re.search(r"CUDA Version: *([\d.]+)", "\n".join(_smi()))
    return found and found[1]


def _query(fields: str) -> list[str]:
    """A line of comma separated fields for each GPU."""
    return _smi(f"--query-gpu={fields}", "--format=csv,noheader")


def _smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none without it, or without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
