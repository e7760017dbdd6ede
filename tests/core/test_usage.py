"""--help of every command, and arguments that a command does not take."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import Problem, UserError
from pipeline.core.usage import Parser
from pipeline.generate import parse
from tests.support.repository import ROOT, STAGES

COMMANDS = (*STAGES, "doctor", "generate")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run python -m with these arguments in the project's folder."""
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(
    command: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """How to call it and what it does, anywhere, without anything run, with exit code 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", flag])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "pipeline" / f"{command}.py"), run_name="__main__")
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m pipeline.{command}")
    assert (ROOT / "pipeline" / f"{command}.py").read_text().partition("\n")[0].strip('"') in out
    assert list(tmp_path.iterdir()) == []


def test_help_of_generate_lists_every_option_and_default() -> None:
    """As a process: exit code 0, help on stdout, nothing on stderr."""
    done = run("pipeline.generate", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    shown = " ".join(done.stdout.split())
    given = vars(parse(["p", "x"]))
    for name in given.keys() - {"point", "prompt"}:
        described = shown.partition("options: ")[2].partition(f"--{name.replace('_', '-')}")[2].partition(" --")[0]
        assert "default: " in described or name == "chat", name
    assert "POINT name of a built point" in shown
    assert "--chat, --no-chat use the chat template, or continue the text; default: use it if the model has" in shown


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


@pytest.fixture
def parser() -> Parser:
    """A command with one argument and three options."""
    parser = Parser(run, "test", "WORD [options]")  # type: ignore[arg-type]
    parser.add_required("word", "a word")
    parser.add_number("--count", int, 1, "how many")
    parser.add_number("--share", float, None, "how much")
    parser.add_argument("--text")
    return parser


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (["a"], ("a", 1, None, None)),
        (["--count", "3", "a b", "--share", "-0.5"], ("a b", 3, -0.5, None)),
        (["--text=--count", "a"], ("a", 1, None, "--count")),
        (["--text", "point=x, {y}", "--", "--word"], ("--word", 1, None, "point=x, {y}")),
        (["- a list"], ("- a list", 1, None, None)),
    ],
)
def test_values(parser: Parser, arguments: list[str], values: tuple[object, ...]) -> None:
    """In any order, as they stand; behind -- nothing is an option."""
    found = parser.parse(arguments)
    assert (found.word, found.count, found.share, found.text) == values


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], ["WORD is missing"]),
        ([""], ["WORD is missing"]),
        (["a", "b"], ["unexpected argument 'b'"]),
        (["a", "--", "-b", "c"], ["unexpected argument '-b'", "unexpected argument 'c'"]),
        (["--coun", "3"], ["unexpected argument '--coun'"]),  # no abbreviations: 3 is the word
        (["--count", "many", "--share", "few"],
         ["--count is 'many', not a whole number", "--share is 'few', not a number", "WORD is missing"]),
        (["--share=x", "a", "--text"], ["--share is 'x', not a number", "--text: expected one argument"]),
    ],
)  # fmt: skip
def test_all_mistakes_at_once(parser: Parser, arguments: list[str], what: list[str]) -> None:
    """Each with a fix that shows how to call the command."""
    with pytest.raises(UserError) as caught:
        parser.parse(arguments)
    problems: tuple[Problem, ...] = caught.value.problems
    assert [problem.what for problem in problems] == what
    assert all("usage: " in p.fix or "--help" in p.fix or p.fix.startswith("give ") for p in problems)
