"""What is shown while points are built.

A terminal shows the stage that runs, how far it is, its memory, what comes next and about how long all takes. Below
that, and where there is no terminal, there is a line for each stage that ran or was restored.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.sweeps.dvc import Progress
from pipeline.sweeps.expect import Key, duration, left
from pipeline.sweeps.lineage import StageRun

GB = 2**30
BAR = 24  # columns


@contextmanager
def view(names: Sequence[str], expected: Mapping[Key, float]) -> Iterator[Progress]:
    """Show a build of these points until it ends. expected: seconds of each stage, as far as they are known."""
    console = Console(soft_wrap=True)
    state = View(names, expected, console)
    progress = Progress(state.started, state.ended, state.fraction, state.text)
    if not console.is_terminal:
        yield progress
        return
    with Live(get_renderable=state.render, console=console, refresh_per_second=2, transient=True):
        yield progress


class View:
    """The state of a build, and how it is shown."""

    def __init__(self, names: Sequence[str], expected: Mapping[Key, float], console: Console) -> None:
        self.names, self.expected, self.console = names, expected, console
        self.done: set[Key] = set()
        self.running: Key | None = None
        self.since = time.monotonic()
        self.share: tuple[str, float] | None = None  # what the stage's own progress bar says

    def started(self, stage: str, point: str) -> None:
        """Note that a stage has started."""
        self.running, self.since, self.share = (stage, point), time.monotonic(), None

    def ended(self, point: str, run: StageRun) -> None:
        """Print what became of a stage, unless nothing did."""
        self.done.add((run.stage, point))
        self.running = None
        if run.outcome != "unchanged" and point:
            self.console.print(Text(line(point, run)))

    def fraction(self, label: str, share: float) -> None:
        """Note how far a stage is by its own progress bar."""
        self.share = label, share

    def text(self, text: str) -> None:
        """Print a line of a stage's output."""
        self.console.print(Text(f"  {text}"))

    def render(self) -> Group:
        """Return what a terminal shows now."""
        to_come = [key for key in left(self.names, self.done) if key != self.running]
        total = len(to_come) + len(self.done) + (self.running is not None)
        row = Table.grid(padding=(0, 2))
        if self.running:
            spent, whole = time.monotonic() - self.since, self.expected.get(self.running)
            label, share = self.share or ("", min(0.99, spent / whole) if whole else None)
            bar = ProgressBar(total=1.0, completed=share or 0.0, width=BAR, pulse=share is None)
            about = f" of about {duration(whole)}" if whole else ""
            percent = f"{share:4.0%}" if share is not None else ""
            memory = f"{memory_of_stage() / GB:.2f} GB"
            row.add_row(_name(self.running), bar, percent, f"{duration(spent)}{about}", memory, label)
        seconds = sum(self.expected.get(key, 0.0) for key in to_come)
        following = f", next {_name(to_come[0])}" if to_come else ""
        remaining = f", about {duration(seconds)} more" if seconds else ""
        return Group(row, Text(f"{len(self.done)} of {total} stages{following}{remaining}", style="dim"))


def line(point: str, run: StageRun) -> str:
    """Return a line on a stage that has ended: its name, what became of it, what it took, or why it failed."""
    cost = f"{run.seconds:.1f} s, {(run.peak or 0) / GB:.2f} GB" if run.seconds is not None else ""
    return "  ".join(filter(None, (_name((run.stage, point)), run.outcome, cost, run.error or "")))


def memory_of_stage() -> int:
    """Return the bytes of memory that the stage's processes hold now: the children of DVC, which is this one's."""
    total = 0
    with suppress(psutil.Error):
        for build in psutil.Process().children():
            for process in build.children(recursive=True):
                with suppress(psutil.Error):
                    total += process.memory_info().rss
    return total


def _name(key: Key) -> str:
    stage, point = key
    return f"{stage}@{point}" if point else stage
