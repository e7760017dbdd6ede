"""A search for the smallest or the fastest engine, in a repository whose stages are done at once."""

import json
from pathlib import Path

import pytest

from pipeline.core.schema import Find, Goal
from pipeline.sweeps import goals
from pipeline.sweeps.dvc import Progress
from tests.support import quick

# point -> bytes of its engine, increase of its perplexity (None: verification fails), tokens a second, MB of memory
POINTS = {
    "large": (3000, 0.0, 10.0, 30.0),
    "middle": (2000, 0.005, 30.0, 20.0),
    "small": (1000, 0.3, 40.0, 10.0),
    "broken": (500, None, 90.0, 5.0),
}
DVC_YAML = """\
stages:
  engine:
    foreach: ${points}
    do:
      cmd: python stage.py ${key} engine
      outs: ["artifacts/${key}/engine"]
  verify:
    foreach: ${points}
    do:
      cmd: python stage.py ${key} verify
      deps: ["artifacts/${key}/engine"]
      outs: ["artifacts/${key}/accuracy.json"]
  bench:
    foreach: ${points}
    do:
      cmd: python stage.py ${key} bench
      deps: ["artifacts/${key}/engine"]
      outs: ["artifacts/${key}/bench.json"]
"""
STAGE = """\
import json, pathlib, sys
point, stage = sys.argv[1:]
size, increase, speed, memory = json.load(open("points.json"))[point]
folder = pathlib.Path("artifacts", point)
with open("ran", "a") as file:
    print(f"{stage}@{point}", file=file)
if stage == "engine":
    (folder / "engine").mkdir(parents=True)
    (folder / "engine/model.onnx").write_bytes(bytes(size))
elif stage == "verify":
    if increase is None:
        sys.exit("error: the gates are not met")
    (folder / "accuracy.json").write_text(json.dumps({"engine": {"perplexity_increase": increase}}))
else:
    (folder / "bench.json").write_text(json.dumps({"decode_tok_s": speed, "peak_mb": memory}))
"""


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository with these points, as the working folder."""
    folder = quick.make(tmp_path / "repository", cached=True)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "stage.py").write_text(STAGE)
    (folder / "points.json").write_text(json.dumps(POINTS))
    (folder / "params.yaml").write_text(json.dumps({"points": {name: [] for name in POINTS}}))
    monkeypatch.chdir(folder)


def search(goal: Goal) -> tuple[goals.Found, set[str]]:
    """What is found, and what ran besides engines."""
    found = goals.search(list(POINTS), goal, {}, Progress())
    return found, {line for line in Path("ran").read_text(encoding="utf-8").split() if not line.startswith("engine")}


def test_the_smallest_that_is_good_enough() -> None:
    """From the smallest on; what is larger than the first good one is neither verified nor measured."""
    found, ran = search(Goal(Find.smallest, perplexity=0.01))
    assert found.best == "middle"
    assert ran == {"verify@broken", "verify@small", "verify@middle", "bench@middle"}
    assert found.failed.keys() == {"broken"}
    assert list(goals.lines(found, Goal(Find.smallest))) == [
        "broken: failed in verify: the gates are not met",
        "small: perplexity +30.00%, goal.perplexity is 1.00%",
        "middle: perplexity +0.50%: the smallest, 0.0 MB",
        "large: not verified: 0.0 MB, larger than middle",
        "smallest with perplexity at most +1.00%: middle",
    ]


def test_the_fastest_that_is_good_enough() -> None:
    """Only what is good enough is measured."""
    found, ran = search(Goal(Find.fastest, perplexity=0.01))
    assert found.best == "middle"
    assert ran == {*(f"verify@{name}" for name in POINTS), "bench@middle", "bench@large"}
    assert found.why["large"] == "perplexity +0.00%: 10.0 tok/s"


def test_memory_is_a_limit() -> None:
    """An engine that is larger than the limit is not even verified; one that takes more while it runs does not win."""
    found, ran = search(Goal(Find.fastest, perplexity=1.0, memory_gb=2500 / 2**30))
    assert "verify@large" not in ran
    assert "its engine alone has" in found.why["large"]
    assert found.best is None
    assert "goal.memory_gb is" in found.why["small"]
    assert list(goals.lines(found, Goal(Find.fastest)))[-1].endswith("none of these points")


def test_a_perplexity_that_was_not_measured_is_not_good_enough() -> None:
    """As where the engine needs a GPU that is not here."""
    Path("stage.py").write_text(STAGE.replace('{"engine": {"perplexity_increase": increase}}', "{}"), encoding="utf-8")
    found, _ = search(Goal(Find.smallest))
    assert found.best is None
    assert "was not measured" in found.why["middle"]
