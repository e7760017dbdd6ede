"""hardware: what nvidia-smi lists, and that it is asked once."""

from pathlib import Path

import pytest

from pipeline.core import hardware
from tests.support.fakes import fake_nvidia_smi

SCRIPT = """
echo asked >> {log}
case "$1" in
  --query-gpu=name*) echo 'NVIDIA H200, 9.0'; echo 'NVIDIA L4, 8.9' ;;
  --query-gpu=driver*) echo 580.65.06; echo 580.65.06 ;;
  *) echo '| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: 13.0 |' ;;
esac
"""


def test_gpus_driver_and_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU with its compute capability; the list is made once per process, as it takes up to a second."""
    log = tmp_path / "log"
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path / "bin", SCRIPT.format(log=log)))
    assert hardware.gpus() == hardware.gpus() == (("NVIDIA H200", "9.0"), ("NVIDIA L4", "8.9"))
    assert log.read_text() == "asked\n"
    assert hardware.driver() == "580.65.06"
    assert hardware.cuda() == "13.0"


@pytest.mark.parametrize("script", ["exit 9", "true", "echo no devices were found; exit 6"])
def test_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A driver that does not answer, or lists none."""
    monkeypatch.setenv("PATH", fake_nvidia_smi(tmp_path / "bin", script))
    assert (hardware.gpus(), hardware.driver(), hardware.cuda()) == ((), None, None)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the name on PATH."""
    monkeypatch.setenv("PATH", "")
    assert (hardware.gpus(), hardware.driver(), hardware.cuda()) == ((), None, None)
