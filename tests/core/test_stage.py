"""stage: how a stage ends, and that only a stage's process goes without a garbage collector."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

MISTAKE = "raise UserError(Problem('wrong', 'key', 'fix it'))"


@pytest.mark.parametrize(
    ("body", "code", "out", "err"),
    [("print('done')", 0, "done\nname: ", ""), (MISTAKE, 1, "", "error: wrong"), ("1 / 0", 1, "", "ZeroDivisionError")],
)
def test_what_was_said_is_seen_and_the_exit_code_tells(body: str, code: int, out: str, err: str) -> None:
    """Also through pipes, which Python flushes late; time and memory are reported of a stage that came to its end."""
    imports = "from pipeline.core import stage\nfrom pipeline.core.errors import *"
    script = f"{imports}\ndef main(): {body}\nstage.run('name', main)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert done.stdout.startswith(out)
    assert bool(done.stdout) == bool(out)
    assert err in done.stderr


def test_logs_are_flushed(tmp_path: Path) -> None:
    """A handler that keeps its lines back has written them when the process ends without Python's own clean-up."""
    script = """
import logging, logging.handlers, sys
from pipeline.core import stage
file = logging.FileHandler(sys.argv.pop())
logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, logging.CRITICAL, file))
stage.run("name", lambda: logging.warning("kept back"))
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "log")], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "log").read_text() == "kept back\n"


def test_pytorch_gets_no_more_threads_than_cores() -> None:
    """It counts the processors of the machine, not those that this process may use."""
    script = """
import torch
from pipeline.core import stage
from pipeline.core.machine import cores
torch.set_num_threads(64)
stage.run("name", lambda: print(torch.get_num_threads() - cores()))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("0\n")


@pytest.mark.parametrize("module", ["core.stage", "model.pt2", "wrap"])
def test_the_collector_stays_on_where_pipeline_is_a_library(module: str) -> None:
    """An application may run for days: it imports what it likes, and keeps its garbage collector."""
    script = f"import gc\nimport pipeline.{module}\nprint(gc.isenabled())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n", done.stderr


def test_the_collector_is_off_in_a_stage() -> None:
    """A short process of its own."""
    script = "import gc\nfrom pipeline.core import stage\nstage.run('name', lambda: print(gc.isenabled()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("False\n"), done.stderr
