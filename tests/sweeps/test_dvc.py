"""What DVC prints, read: of real builds whose stages are done at once, and of lines that such builds lack."""

import fnmatch
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sweeps import dvc
from pipeline.sweeps.dvc import Built, Progress, Reader
from pipeline.sweeps.lineage import StageRun
from tests.support import quick

LAST = ("verify", "bench")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a good and a bad point, as the working folder."""
    folder = quick.make(tmp_path)
    (folder / "params.yaml").write_text("points: {bad: [experiment=tiny], good: [experiment=tiny]}\n")
    monkeypatch.chdir(folder)
    return folder


def reproduce(point: str) -> Built:
    """Build one of the points."""
    return dvc.reproduce(LAST, [point], ["bad", "good"], Progress())


def outcomes(built: Built) -> dict[str, dict[str, str]]:
    """What became of each stage, by point."""
    return {point: {run.stage: run.outcome for run in runs} for point, runs in built.runs.items()}


def test_a_build_with_a_failed_point(repository: Path) -> None:
    """The good point is built; the bad one's failed stage has its error, and what follows was skipped."""
    seen: list[str] = []
    progress = Progress(
        started=lambda stage, point: seen.append(f"{stage}@{point} starts"),
        ended=lambda point, run: seen.append(f"{run.stage}@{point} {run.outcome}"),
        text=seen.append,
    )
    built = dvc.reproduce(LAST, ["bad", "good"], ["bad", "good"], progress)
    assert outcomes(built) == {
        "bad": {"verify": "failed", "bench": "skipped"},
        "good": {"verify": "ran", "bench": "ran"},
    }
    failed = built.failed("bad")
    assert failed
    assert failed.error == "the point called bad fails"
    assert failed.why == ("first build",)
    assert built.failed("good") is None
    assert built.problem is None
    assert seen == [
        "verify@bad starts",
        "error: the point called bad fails",
        "verify@bad failed",
        "bench@bad skipped",
        "verify@good starts",
        "verify@good ran",
        "bench@good starts",
        "bench@good ran",
    ]


def test_again_and_after_a_change(repository: Path) -> None:
    """A second build changes nothing; one after a change says what has changed; `changed` tells it before."""
    assert dvc.changed() == {"good", "bad"}
    reproduce("good")
    assert dvc.changed() == {"bad"}
    assert outcomes(reproduce("good")) == {"good": {"verify": "unchanged", "bench": "unchanged"}}
    (repository / "artifacts/good/accuracy.json").write_text("{}")
    assert dvc.changed() == {"good", "bad"}
    (verify, _) = reproduce("good").runs["good"]
    assert verify.outcome == "ran"
    assert verify.why == ("accuracy.json modified",)


def test_what_dvc_itself_fails_at(repository: Path) -> None:
    """A broken dvc.yaml is DVC's problem, and no stage's; `changed` leaves it to the build."""
    (repository / "dvc.yaml").write_text("stages: [")
    built = reproduce("good")
    assert built.runs == {}
    assert built.problem
    assert built.problem.startswith("DVC: ")
    assert "dvc.yaml" in built.problem
    assert dvc.changed() is None


def read(*lines: str, known: tuple[str, ...] = ()) -> Reader:
    """A reader that has read these lines."""
    reader = Reader(Progress(), known)
    for line in lines:
        reader.read(line)
    return reader


def test_cost_and_restored_stages() -> None:
    """Time and memory are those that the stage prints; a restored stage has neither."""
    built = read(
        "Running stage 'wrap@p':",
        "> PYTHONPATH=../.. python -m pipeline.wrap",
        "wrap: 6.7 s, peak memory 0.50 GB",
        "2026-11-28 12:00:00,000 DEBUG: stage: 'wrap@p' was reproduced",
        "Stage 'export@p' is cached - skipping run, checking out outputs",
        "2026-11-28 12:00:00,000 DEBUG: stage: 'export@p' was reproduced",
    ).finish(0)
    wrap, export = built.runs["p"]
    assert (wrap.outcome, wrap.seconds, wrap.peak) == ("ran", 6.7, 2**29)
    assert (export.outcome, export.seconds, export.peak) == ("restored", None, None)
    assert built.tail == []


def test_reasons_name_the_innermost_keys() -> None:
    """DVC tells of a section and of its key; the key says it."""
    changed = "2026-11-28 12:00:00,000 DEBUG: Dependency 'artifacts/p/params.yaml' of stage: 'wrap@p' changed because "
    reader = read(
        changed + "it is '{'cache': 'modified', 'cache.size': 'modified', 'model': 'new'}'.",
        "Running stage 'wrap@p':",
        "2026-11-28 12:00:00,000 DEBUG: stage: 'wrap@p' was reproduced",
        known=("wrap@p",),
    )
    assert reader.built.runs["p"][0].why == ("params.yaml: cache.size modified, model new",)


def test_a_stage_that_was_killed() -> None:
    """Without an error of its own it failed all the same; so did one that ran when DVC itself was killed."""
    killed = read("Running stage 'wrap@p':", "2026-11-28 12:00:00,000 WARNING: failed to run: x, exited with -9")
    assert killed.finish(1).runs["p"][0].error == "it was ended from outside"
    both = read("Running stage 'wrap@p':", "loading").finish(-9)
    assert both.runs["p"] == [
        StageRun("wrap", "failed", ("first build",), error="loading", when=both.runs["p"][0].when)
    ]


def test_bars_are_progress_and_no_text() -> None:
    """A bar's share is told as soon as it is written, though no line ends there."""
    shares: list[tuple[str, float]] = []
    texts: list[str] = []
    reader = Reader(Progress(fraction=lambda label, share: shares.append((label, share)), text=texts.append))
    reading, writing = os.pipe()
    os.write(writing, "onnx:   0%|   | 0/14\ronnx:  79%|███| 11/14\r          \rdone: ä".encode())
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        for line, transient in dvc.lines(stream):
            reader.read(line, transient)
    assert shares == [("onnx", 0.0), ("onnx", 0.79)]
    assert texts == ["done: ä"]


def test_lines_arrive_before_the_process_ends() -> None:
    """A bar that is not overwritten yet is read."""
    code = "import sys, time; sys.stderr.write('\\rx:  50%|#'); sys.stderr.flush(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        assert process.stderr
        found = dvc.lines(process.stderr)
        assert next(line for line, _ in found if line) == "x:  50%|#"
        process.kill()


def test_stages_of_the_lock_file(tmp_path: Path) -> None:
    """They are read without a YAML parser."""
    lock = "schema: '2.0'\nstages:\n  toolchain:\n    cmd: x\n  wrap@a-b_1:\n    cmd: y\n    deps:\n    - path: z\n"
    (tmp_path / "dvc.lock").write_text(lock)
    assert list(dvc._locked_stages(tmp_path)) == ["toolchain", "wrap@a-b_1"]
    assert list(dvc._locked_stages(tmp_path / "none")) == []


def test_push_says_what_went_wrong(repository: Path) -> None:
    """Without a remote nothing can be handed over."""
    problem = dvc.push(repository)
    assert problem
    assert "remote" in problem


def test_utf8_is_not_torn() -> None:
    """A character whose bytes come apart is one character."""
    reading, writing = os.pipe()
    raw = "é\n".encode()
    with os.fdopen(reading, "rb") as stream:
        os.write(writing, raw[:1])
        found = dvc.lines(stream)
        os.write(writing, raw[1:])
        os.close(writing)
        assert [line for line, _ in found] == ["é"]


@given(st.sets(st.text("ab-", min_size=1, max_size=4), min_size=1), st.data())
def test_patterns_match_what_is_asked_for_and_nothing_else(known: set[str], data: st.DataObject) -> None:
    """Whatever the names: one that begins as another does, or is the beginning of it."""
    asked = data.draw(st.sets(st.sampled_from(sorted(known)), min_size=1))
    matched = {name for pattern in dvc.patterns(asked, known) for name in fnmatch.filter(known, pattern)}
    assert matched == asked


def test_a_sweep_is_one_pattern() -> None:
    """Its points begin alike."""
    sweep = [f"tiny-cache_{size}" for size in (32, 64)]
    assert dvc.patterns(sweep, sweep) == ["*"]
    assert dvc.patterns(sweep, [*sweep, "tiny", "smollm2"]) == ["tiny-*"]
    assert dvc.patterns(["tiny"], [*sweep, "tiny"]) == ["tiny"]
