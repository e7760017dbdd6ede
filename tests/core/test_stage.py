"""stage: how a stage ends, and that only a stage's process goes without a garbage collector."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import layout, stage
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


def point(tmp_path: Path, parent: str) -> Path:
    """A point's folder below `parent`, with a program of 1,000 numbers in fp16."""
    folder = tmp_path / parent / "small"
    (folder / layout.WRAPPED).mkdir(parents=True)
    (folder / layout.WRAPPED / layout.PROGRAM).write_bytes(bytes(2000))
    (folder / layout.PARAMS).write_text("precision: {compute: fp16}\nengine: {kind: onnxruntime}", encoding="utf-8")
    return folder


def test_a_stage_notes_what_it_took(tmp_path: Path) -> None:
    """A line for each run, beside the points; with the model's size and what the time depends on."""
    folder = point(tmp_path, "artifacts")
    stage.note("wrap", 1.234, 5, folder)
    stage.note("export", 7.0, 6, folder)
    first, second = map(json.loads, (tmp_path / layout.HISTORY).read_text(encoding="utf-8").splitlines())
    assert first["point"] == "small"
    assert (first["stage"], first["seconds"], first["peak"], first["parameters"]) == ("wrap", 1.23, 5, 1000)
    assert (second["precision.compute"], second["engine.kind"], second["model.source"]) == ("fp16", "onnxruntime", None)


def test_nothing_is_noted_elsewhere(tmp_path: Path) -> None:
    """A stage that runs in a folder of its own, or has made no program, leaves no file."""
    stage.note("wrap", 1.0, 5, point(tmp_path, "elsewhere"))
    stage.note("compose", 1.0, 5, tmp_path / "artifacts")
    assert not list(tmp_path.rglob("history.jsonl"))
