"""pipeline.report: the command, on points as they are on disk."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import report
from pipeline.core import layout
from pipeline.core.errors import UserError
from tests.support import reports, repository
from tests.support.pages import Page
from tests.support.repository import make

Run = Callable[..., str]


def read(path: str) -> Any:
    """A JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def shown() -> Page:
    """The page that was written."""
    return Page(Path(layout.REPORT).read_text(encoding="utf-8"))


@pytest.fixture
def run(proven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in a repository with the points one, two and unbuilt; return what it prints."""
    make(tmp_path)
    points = {"one": ["experiment=tiny"], "two": ["experiment=tiny", "cache.size=128"], "unbuilt": []}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"points": points}, sort_keys=False))
    for name in ("one", "two"):
        reports.copy(proven, tmp_path / "artifacts" / name)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["report", *arguments])
        report.main()
        return capsys.readouterr().out

    return command


def test_all_points_by_default(run: Run) -> None:
    """A page and its data; the recommendation is printed too."""
    Path(layout.TOOLCHAIN).write_text('{"torch": "2.13", "gpu": null, "cpu": "a CPU"}', encoding="utf-8")
    printed = run("--no-plan").splitlines()
    data = read(layout.REPORT_DATA)
    page = shown()
    assert [(point["name"], point["state"]) for point in data["points"]] == [
        ("one", "verified"),
        ("two", "verified"),
        ("unbuilt", "not built"),
    ]
    assert data["versions"] == {"torch": "2.13", "cpu": "a CPU"}
    assert printed[0] == data["comparisons"][0]["sentence"]
    assert printed[0] in page.words
    assert printed[-1].startswith("artifacts/report.html: 3 points, 0.")
    assert run("--no-plan", "one").splitlines()[-1].startswith("artifacts/report.html: 1 points")


def test_the_data_are_those_of_the_page(run: Run) -> None:
    """What the page shows is in report.json, and its figures are what the stages wrote."""
    run("--no-plan")
    one = read(layout.REPORT_DATA)["points"][0]
    words = shown().words
    assert one["quality"] == read(f"artifacts/one/{layout.ACCURACY}")["engine"]
    bench = read(f"artifacts/one/{layout.BENCH}")
    assert {name: one["speed"][name] for name in bench} == bench
    verified = read(f"artifacts/one/{layout.VERIFY}")
    for artifact in one["artifacts"]:
        for case in artifact["cases"]:
            raw = verified["artifacts"][artifact["name"]][case["name"]]
            assert {name: raw[name] for name in case["figures"]} == case["figures"]
            assert case["passed"] == raw.get("passed", True)
            assert case["name"] in words
        assert artifact["gates"] == verified["limits"][artifact["name"]]
    for text in one["texts"]:
        assert " ".join(text["text"].split()) in words
    for stage in one["stages"]:
        assert stage["name"] in words
    for key, value in one["settings"].items():
        assert f"{key} {value if isinstance(value, str) else json.dumps(value)}" in words


def test_plans_stand_beside_what_was_measured(run: Run) -> None:
    """By default: memory and disk of every stage, and times of earlier runs."""
    lines = [
        {"stage": "wrap", "point": point, "seconds": seconds, "peak": 2**29, "parameters": 139_584}
        for point, seconds in (("two", 7.5), ("one", 8.5))
    ]
    Path(layout.HISTORY).write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run("one")
    (one,) = read(layout.REPORT_DATA)["points"]
    wrap = one["stages"][0]
    assert (wrap["seconds"], wrap["planned_seconds"], wrap["peak"]) == (8.5, 7.5, 2**29)
    assert all(stage["planned_peak"] > 2**20 for stage in one["stages"])
    assert "8.5 s 7.5 s 512.0 MB" in shown().words


def test_points_that_are_not_there(run: Run) -> None:
    """All of them are named; nothing is written."""
    with pytest.raises(UserError) as caught:
        run("one", "tow", "nothing like it")
    assert [problem.what for problem in caught.value.problems] == [
        "there is no point tow in params.yaml",
        "there is no point nothing like it in params.yaml",
    ]
    assert caught.value.problems[0].fix == "choose from: two"
    assert not Path(layout.REPORT).exists()


@pytest.mark.slow
def test_a_point_that_dvc_built(tmp_path: Path) -> None:
    """As a process, beside dvc.lock and history.jsonl; other overrides make its figures those of an earlier state."""
    folder = repository.built().copy(tmp_path / "repository")

    def written() -> Any:
        done = repository.run(folder, sys.executable, "-m", "pipeline.report")
        assert (done.stderr, done.returncode) == ("", 0)
        (found,) = json.loads((folder / layout.REPORT_DATA).read_text())["points"]
        return found

    found = written()
    assert (found["state"], found["why"], found["no_plan"]) == ("verified", [], "")
    assert all(stage["seconds"] > 0 and stage["peak"] > 0 for stage in found["stages"])
    repository.override(folder, "cache.size=32")
    assert written()["why"] == ["its overrides were experiment=tiny when it was built"]
    repository.override(folder)
    assert repository.run(folder, "dvc", "plots", "show").returncode == 0
    assert repository.run(folder, "git", "status", "--porcelain", "artifacts").stdout == "?? artifacts/\n"
    ignored = repository.run(folder, "git", "check-ignore", layout.REPORT, layout.REPORT_DATA)
    assert ignored.stdout.splitlines() == [layout.REPORT, layout.REPORT_DATA]


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other commands say it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report"])
    with pytest.raises(UserError, match=r"there is no params\.yaml"):
        report.main()
