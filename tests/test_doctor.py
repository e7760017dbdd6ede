"""pipeline.doctor: what it says of this machine, and of machines that are not as they should be."""

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import onnxruntime
import pytest

from pipeline import doctor
from pipeline.core import machine
from pipeline.core.machine import cores
from pipeline.doctor import Finding, findings
from tests.support.fakes import fake_nvidia_smi


def texts(state: str | None = None) -> list[str]:
    """What is found, of one state or of all."""
    return [finding.what for finding in findings() if state in (None, finding.state)]


def test_this_machine_can_build() -> None:
    """As a command: nothing is wrong, the engines are named, and every note has a fix or needs none."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "pipeline.doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine=onnxruntime_cpu: builds and runs" in done.stdout
    assert "engine=tensorrt_rtx: builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in done.stdout
    assert "billion parameters" in done.stdout
    assert "wrong" not in done.stdout
    assert "`python` on PATH" not in done.stdout


def version(monkeypatch: pytest.MonkeyPatch, **fake: str | None) -> None:
    """Let packages have other versions, or none."""
    real = metadata.version

    def said(name: str) -> str:
        key = name.replace("-", "_")
        found = fake.get(key, real(name) if key not in fake else None)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", said)


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named with what is wanted, and the fix is the lock file."""
    version(monkeypatch, onnxruntime="1.26.0", omegaconf="2.4.0", gguf=None)
    wrong = [finding for finding in findings() if finding.state == "wrong"]
    assert [finding.what for finding in wrong] == [
        "gguf is missing; kvforge needs >=0.19",
        "omegaconf 2.4.0; kvforge needs <2.4,>=2.3.1",
        "onnxruntime 1.26.0; kvforge needs >=1.32",
    ]
    assert all("requirements.lock" in finding.fix for finding in wrong)


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock file leaves torch out, so the fix names torch itself."""
    version(monkeypatch, torch="2.4.0")
    (wrong,) = (finding for finding in findings() if finding.state == "wrong")
    assert wrong.what.startswith("torch 2.4.0; kvforge needs >=")
    assert wrong.fix.startswith("pip install 'torch>=")


def test_two_onnxruntimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They overwrite each other's files."""
    version(monkeypatch, onnxruntime_gpu="1.32.0")
    assert any("both installed" in what for what in texts("wrong"))


def test_onnxruntime_for_gpus_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong without the package for the CPU; an older version costs the engine for the CPU alone."""
    version(monkeypatch, onnxruntime=None, onnxruntime_gpu="1.31.1")
    monkeypatch.setattr(onnxruntime, "__version__", "1.31.1")
    assert texts("wrong") == []
    assert "engine=onnxruntime_cpu: needs ONNX Runtime >=1.32, this is 1.31.1" in texts("note")


def test_another_python_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dvc repro would run it."""
    (tmp_path / "python").write_text("#!/bin/sh\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (found,) = (finding for finding in findings() if "`python` on PATH" in finding.what)
    assert str(tmp_path) in found.what
    assert str(Path(sys.executable).parent) in found.fix


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("NVIDIA GeForce RTX 4090, 8.9", "(TensorRT-RTX 1.7.1.116); runs on NVIDIA GeForce RTX 4090"),
        ("NVIDIA H200, 9.0", "(TensorRT-RTX 1.7.1.116); its plans do not run here"),
    ],
)
def test_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str) -> None:
    """Its name, its driver, and which engines run on it."""
    script = f"""case "$1" in
*name*) echo '{line}' ;;
*driver*) echo 580.65.06 ;;
*) echo '| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0 |' ;;
esac"""
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path / "bin", script))
    found = list(findings())
    said = [finding.what for finding in found]
    assert f"GPU {line.replace(', ', ', compute capability ')}" in said
    assert "driver 580.65.06, for CUDA up to 13.0" in said
    assert any(says in what for what in said if what.startswith("engine=tensorrt_rtx"))
    assert any("onnxruntime_cuda" in f.what and "pip install onnxruntime-gpu" in f.fix for f in found)


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the size of models that still fit."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**9})())
    wrong = [finding for finding in findings() if finding.state == "wrong"]
    assert [finding.what for finding in wrong] == [
        "1 GB of disk free: models of up to about 0.0 billion parameters in fp32"
    ]


def test_memory_is_what_a_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The free memory of a machine is not that of a process whose control group has a limit."""
    group = "sys/fs/cgroup"
    files = {"proc/self/cgroup": "0::/", f"{group}/memory.max": str(4 * 2**30), f"{group}/cpu.max": "150000 100000"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for function in (machine.memory_available, machine.cpu_quota, cores):
        monkeypatch.setattr(function, "__defaults__", (tmp_path,))
    (found,) = (finding for finding in findings() if "of memory free" in finding.what)
    assert "threads that compute: 1, of a quota of 1.5 processors" in texts("ok")
    assert found.what == "4 GB of memory free: models of up to about 0.3 billion parameters in fp32"


def test_a_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a finding, and the checks after it still run."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = list(findings())
    assert any(f.state == "wrong" and "onnxruntime" in f.what for f in found)
    assert any("engine=tensorrt" in f.what for f in found)


def test_not_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package alone: DVC needs a clone."""
    (tmp_path / "pyproject.toml").write_text((doctor.ROOT / "pyproject.toml").read_text())
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    assert f"{tmp_path} is not a DVC project" in texts("wrong")
    (tmp_path / ".dvc").mkdir()
    assert f"{tmp_path} is not a git checkout, which DVC needs" in texts("wrong")


def test_a_finding_is_one_line_and_its_fix() -> None:
    """As it is printed."""
    assert str(Finding("note", "this", "that")) == "note   this\n       fix: that"
    assert str(Finding("ok", "this")) == "ok     this"
