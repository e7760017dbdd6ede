"""The NVIDIA GPUs of this machine, by what their driver says; nothing of CUDA is imported."""

import shutil
import subprocess


def gpus() -> list[tuple[str, str]]:
    """Name and compute capability of each, ("NVIDIA H200", "9.0"); none where there is no GPU or no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.rpartition(",") for line in done.stdout.splitlines() if line.strip()]
    return [(name.strip(), capability.strip()) for name, _, capability in rows] if done.returncode == 0 else []
