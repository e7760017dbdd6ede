"""What is shown while points are built."""

import io

from rich.console import Console

from pipeline.sweeps.lineage import StageRun
from pipeline.sweeps.view import View, line, memory_of_stage, view


def shown(state: View) -> str:
    """The live part, as text."""
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(state.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_running_stage_what_is_next_and_how_long() -> None:
    """A stage without a bar of its own is as far as its time says; with one as far as that."""
    expected = {("wrap", "p"): 100.0, ("export", "p"): 30.0, ("verify", "p"): 300.0}
    state = View(["p"], expected, Console(file=io.StringIO()))
    state.ended("", StageRun("toolchain", "ran"))
    state.ended("p", StageRun("compose", "unchanged"))
    state.started("wrap", "p")
    state.since -= 50
    text = shown(state)
    assert "wrap@p" in text
    assert "50%" in text
    assert "50 s of about 2 min" in text
    assert "2 of 9 stages, next export@p, about 6 min more" in text
    state.fraction("layers", 0.25)
    assert "25%" in shown(state)
    assert "layers" in shown(state)
    state.ended("p", StageRun("wrap", "ran", seconds=60.0, peak=2**30))
    assert "3 of 9 stages, next export@p" in shown(state)


def test_a_line_for_each_stage_that_did_something() -> None:
    """Nothing for what was up to date, nor for the list of versions, which always runs."""
    output = io.StringIO()
    state = View(["p"], {}, Console(file=output, width=120))
    state.ended("", StageRun("toolchain", "ran"))
    state.ended("p", StageRun("compose", "unchanged"))
    state.ended("p", StageRun("wrap", "restored"))
    state.ended("p", StageRun("verify", "failed", seconds=2.0, peak=2**29, error="kl is [red]"))
    assert output.getvalue().splitlines() == ["wrap@p  restored", "verify@p  failed  2.0 s, 0.50 GB  kl is [red]"]


def test_without_a_terminal_there_are_lines_alone() -> None:
    """pytest has none; nothing is drawn."""
    with view(["p"], {}) as progress:
        progress.started("wrap", "p")
        progress.text("150 nodes -> 60")
        progress.ended("p", StageRun("wrap", "ran", seconds=1.0, peak=0))


def test_memory_is_that_of_a_builds_children() -> None:
    """Nothing runs below this process's children."""
    assert memory_of_stage() >= 0


def test_names() -> None:
    """A stage of no point has its name alone."""
    assert line("", StageRun("toolchain", "ran")) == "toolchain  ran"
