"""pipeline.toolchain: versions by metadata, hardware, and speed."""

import json
import os
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline import toolchain
from tests.support.fakes import fake_distribution, fake_nvidia_smi
from tests.support.repository import ROOT


def run(folder: Path, **environment: str) -> dict[str, str | None]:
    """Run the stage in `folder` as a process; what it wrote."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
    command = [sys.executable, "-m", "pipeline.toolchain"]
    subprocess.run(command, cwd=folder, env={**os.environ, **environment, "PYTHONPATH": path}, check=True)
    written: dict[str, str | None] = json.loads((folder / toolchain.TARGET).read_text())
    return written


def test_it_tells_the_installed_versions(tmp_path: Path) -> None:
    """The keys are flat, and what is installed has its version."""
    written = run(tmp_path)
    assert set(written) == {"python", "gpu", "cpu", *toolchain.PACKAGES}
    assert written["torch"] == version("torch")
    assert written["onnx"] == version("onnx")
    assert written["python"] == ".".join(map(str, sys.version_info[:3]))
    assert str(written["cpu"]).endswith(f"{os.cpu_count()} cores")


def test_a_package_on_pythonpath_shadows_the_installed_one(tmp_path: Path) -> None:
    """The version is that of the package that would be imported."""
    fake_distribution(tmp_path / "site", "onnxruntime", "9.9.9")
    fake_distribution(tmp_path / "site", "tensorrt-rtx-cu13-bindings", "1.2.3")
    written = run(tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert (written["onnxruntime"], written["tensorrt_rtx"]) == ("9.9.9", "1.2.3")


def test_equal_machines_write_equal_files(tmp_path: Path) -> None:
    """Nothing in the file changes from run to run, else every stage would run again."""
    assert run(tmp_path) == run(tmp_path)


@pytest.mark.parametrize(
    ("script", "gpu"),
    [
        ("echo 'NVIDIA H200, 9.0'", "NVIDIA H200, 9.0"),
        ("echo 'NVIDIA L4, 8.9'; echo 'NVIDIA H200, 9.0'; echo 'NVIDIA L4, 8.9'", "NVIDIA H200, 9.0; NVIDIA L4, 8.9"),
        ("echo 'no devices were found'; exit 6", None),
        ("true", None),
    ],
)
def test_gpus_are_named(tmp_path: Path, script: str, gpu: str | None) -> None:
    """Each kind of GPU is named once, in an order that does not depend on slots; a driver without one gives null."""
    assert run(tmp_path, PATH=fake_nvidia_smi(tmp_path / "bin", script))["gpu"] == gpu


def test_no_package_is_imported() -> None:
    """Only the standard library is loaded: the stage runs at every `dvc repro`."""
    code = "import sys, pipeline.toolchain as t; t.installed(('torch',)); print({m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "yaml", "omegaconf", "hydra", "numpy"} & set(eval(done.stdout))  # noqa: S307  # own output


def test_it_is_quick(tmp_path: Path) -> None:
    """It computes for a fraction of a second, however long it has to wait on a busy machine: 0.1 s; torch alone 1.5."""

    def computed() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before = computed()
    run(tmp_path)
    assert computed() - before < 1
