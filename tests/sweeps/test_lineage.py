"""What is kept of a point's builds."""

from dataclasses import replace
from pathlib import Path

from pipeline.core.files import read_json
from pipeline.core.layout import LINEAGE
from pipeline.sweeps.lineage import StageRun, merged, read, write

RAN = StageRun("wrap", "ran", ("first build",), 3.5, 2**20)


def test_a_file_reads_as_it_was_written(tmp_path: Path) -> None:
    """All fields come back; the file names the last build's time and host at its top."""
    runs = [RAN, StageRun("verify", "failed", error="no", host="other", when="2100-01-01T00:00:00+00:00")]
    write(tmp_path / "p", runs)
    assert read(tmp_path / "p") == runs
    found = read_json(tmp_path / "p" / LINEAGE)
    assert (found["host"], found["when"]) == ("other", "2100-01-01T00:00:00+00:00")
    assert read(tmp_path / "none") == []


def test_an_unchanged_stage_keeps_what_made_it() -> None:
    """What is up to date tells how it came to be."""
    unchanged = StageRun("wrap", "unchanged")
    assert merged([RAN], [], [unchanged]) == [RAN]
    assert merged([], [], [unchanged]) == [unchanged]


def test_a_failure_that_was_mended_is_forgotten() -> None:
    """By `dvc repro`, which writes no lineage: what DVC then calls unchanged has not failed, nor was it skipped."""
    former = [StageRun("verify", "failed", error="no"), StageRun("bench", "skipped")]
    now = [StageRun("verify", "unchanged"), StageRun("bench", "unchanged")]
    assert merged(former, [], now) == now


def test_a_restored_stage_that_a_job_ran_is_the_jobs() -> None:
    """Its time, memory and host are those of the job, even if an earlier build had another."""
    job = replace(RAN, host="node7", why=())
    restored = StageRun("wrap", "restored", ("params.yaml: cache.size modified",))
    assert merged([RAN], [job], [restored]) == [replace(job, why=restored.why)]
    assert merged([RAN], [], [restored]) == [restored]


def test_stages_are_in_their_order() -> None:
    """Whatever the order in which DVC came to them."""
    runs = [StageRun(name, "ran") for name in ("bench", "compose", "engine")]
    assert [run.stage for run in merged([], [], runs)] == ["compose", "engine", "bench"]
