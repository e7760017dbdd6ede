"""--help of every command, and arguments that a command does not take."""

import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.core import usage
from pipeline.generate import Request
from tests.support.repository import ROOT, STAGES

COMMANDS = (*STAGES, "doctor", "generate")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python -m with these arguments in the project's folder."""
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", usage.HELP)
def test_help(
    command: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How to call it and what it does, anywhere, without anything run: its main returns, as with exit code 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", flag])
    runpy.run_path(str(ROOT / "pipeline" / f"{command}.py"), run_name="__main__")
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m pipeline.{command}")
    assert (ROOT / "pipeline" / f"{command}.py").read_text().partition("\n")[0].strip('"') in out
    assert list(tmp_path.iterdir()) == []


def test_help_of_generate_lists_every_key_and_default() -> None:
    """As a process: exit code 0, help on stdout, nothing on stderr."""
    done = run("pipeline.generate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for field in fields(Request):
        (line,) = (line for line in lines if line.strip().startswith(f"{field.name}="))
        assert "default: " in line or "(required)" in line


def test_help_of_a_stage_says_where_it_runs() -> None:
    """As a process, in which a stage would end by os._exit."""
    done = run("pipeline.simplify", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "It takes no arguments." in done.stdout
    assert "dvc repro simplify@<point>" in done.stdout


def test_help_of_the_front_door() -> None:
    """Its own words first, then the groups, keys and defaults that Hydra shows."""
    done = run("pipeline", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m pipeline [group=option | key=value ...]")
    for text in ("point=NAME", "-m ", "precision: bf16, fp16, fp32", "cache:\n  size: 1024"):
        assert text in done.stdout


@pytest.mark.parametrize("command", sorted({*STAGES, "doctor"} - {"compose"}))
def test_unexpected_arguments_are_refused(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them at once, before anything runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", "--verbose", "x=1"])
    with pytest.raises(SystemExit) as error:
        runpy.run_path(str(ROOT / "pipeline" / f"{command}.py"), run_name="__main__")
    assert error.value.code == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] == [
        "error: unexpected argument '--verbose'",
        "error: unexpected argument 'x=1'",
    ]
    assert list(tmp_path.iterdir()) == []
