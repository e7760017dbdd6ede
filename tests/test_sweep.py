"""A sweep through the front door, for real: points share the stages that are equal, and nothing is built twice."""

import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipeline.core.tables.stages import downstream
from pipeline.sweeps.lineage import read
from tests.support.repository import COPIED, make_whole, run

pytestmark = pytest.mark.slow

SWEEP = ("-m", "pipeline", "-m", "experiment=tiny", "model.seed=0,1", "engine.threads=1,2")
OVERRIDES = [["experiment=tiny", f"model.seed={seed}", f"engine.threads={n}"] for seed in (0, 1) for n in (1, 2)]
SHARED = ("wrap", "export", "simplify", "quantize")


@dataclass(frozen=True)
class Swept:
    """A repository without points, after the sweep."""

    folder: Path
    output: str

    @property
    def points(self) -> dict[str, list[str]]:
        """The points in its params.yaml."""
        points: dict[str, list[str]] = yaml.safe_load((self.folder / "params.yaml").read_text())["points"]
        return points

    def lineage(self, point: str) -> dict[str, str]:
        """What became of each stage of a point."""
        return {run.stage: run.outcome for run in read(self.folder / "artifacts" / point)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Sweep over two models and two options of the engine, side by side; tests/test_main.py has other launchers."""
    folder = make_whole(tmp_path_factory.mktemp("sweep") / "repository", "points: {}\n")
    done = run(folder, sys.executable, *SWEEP, "hydra/launcher=joblib")
    assert done.returncode == 0, done.stdout + done.stderr
    return Swept(folder, done.stdout)


def test_equal_stages_run_once(swept: Swept) -> None:
    """What is equal of two models is built once each; only engines are built for each of the four points."""
    outcomes = [swept.lineage(point) for point in swept.points]
    for stage in SHARED:
        assert Counter(found[stage] for found in outcomes) == {"ran": 2, "restored": 2}, stage
    for stage in downstream("engine"):
        assert Counter(found[stage] for found in outcomes) == {"ran": 4}, stage


def left_behind(folder: Path) -> set[str]:
    """What a sweep left in a repository besides its results."""
    jobs = [path.name for path in (folder / ".dvc/tmp/points").glob("*") if path.is_dir()]
    status = run(folder, "git", "status", "--porcelain", "--untracked-files=all").stdout.split("\n")
    names = {line[3:].split("/")[0] for line in status if line}
    return {*jobs, *names} - {Path(name).parts[0] for name in COPIED} - {"artifacts", "dvc.lock", "params.yaml"}


def test_nothing_is_left_behind(swept: Swept) -> None:
    """A job's folder is gone when it has ended, and the repository has no file of a launcher."""
    assert left_behind(swept.folder) == set()


def test_every_job_is_a_point_that_was_verified(swept: Swept) -> None:
    """params.yaml names the four points, and the last lines of the output sum them up."""
    assert sorted(swept.points.values()) == sorted(OVERRIDES)
    lines = swept.output.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("point  "))
    for point, line in zip(swept.points, lines[start + 1 : start + 5], strict=True):
        assert re.fullmatch(rf"{point} +verified +\d+ MB +[\d.]+ s +[\d.]+ tok/s +[\d.]+ +\S+", line), line
        assert json.loads((swept.folder / "artifacts" / point / "verify.json").read_text())["passed"]
    assert lines[-1].startswith("artifacts/report.html: 4 points")


def test_points_differ_in_what_was_swept(swept: Swept) -> None:
    """An engine has its own point's option, and each model its own weights, the same in both of its points."""
    artifacts = [swept.folder / "artifacts" / point for point in swept.points]
    assert [json.loads((a / "engine/engine.json").read_text())["threads"] for a in artifacts] == [1, 2, 1, 2]
    one, same, other, _ = [(a / "engine/model.onnx.data").read_bytes() for a in artifacts]
    assert one == same
    assert one != other


def test_metrics_and_plots_show_all_points(swept: Swept) -> None:
    """`dvc metrics show` and `dvc plots show` work on the whole sweep."""
    metrics = run(swept.folder, "dvc", "metrics", "show")
    assert metrics.returncode == 0, metrics.stderr
    plots = run(swept.folder, "dvc", "plots", "show")
    assert plots.returncode == 0, plots.stderr
    page = (swept.folder / "dvc_plots/index.html").read_text()
    for point in swept.points:
        (speed,) = [line for line in metrics.stdout.splitlines() if line.startswith(f"artifacts/{point}/bench.json ")]
        measured = json.loads((swept.folder / "artifacts" / point / "bench.json").read_text())
        assert str(measured["decode_tok_s"]) in speed
        assert f"artifacts/{point}/latency.json" in page
    assert "decode_tok_s" in metrics.stdout.splitlines()[0]


def test_the_same_sweep_again_builds_nothing(swept: Swept) -> None:
    """Running it a second time builds nothing and leaves params.yaml as it is."""
    before = (swept.folder / "params.yaml").read_text()
    lineages = [swept.lineage(point) for point in swept.points]
    done = run(swept.folder, sys.executable, *SWEEP)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["point", "size", "prefill", "decode", "perplexity", "mean", "KL"]
    assert [swept.lineage(point) for point in swept.points] == lineages
    assert (swept.folder / "params.yaml").read_text() == before
