"""pipeline.plan: what it shows, what it and the front door refuse, and how to go on all the same."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import plan
from pipeline.config import points
from pipeline.core.errors import UserError
from tests.support.repository import PARAMS, ROOT, make

# tens of billions of parameters of random weights, beyond any machine that runs tests
HUGE = ["experiment=tiny", "model.config={hidden_size: 8192, intermediate_size: 32768, num_hidden_layers: 40}"]
Show = Callable[..., str]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository without stages, as the working folder."""
    make(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Show:
    """Run the command in this process; return what it prints."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["plan", *arguments])
        try:
            plan.main()
        finally:
            printed.append(capsys.readouterr().out)
        return printed[-1]

    printed: list[str] = []
    return run


def test_a_plan_shows_every_stage(show: Show) -> None:
    """For people and as JSON, with the times of earlier runs; it writes nothing."""
    history = Path("artifacts/history.jsonl")
    history.parent.mkdir()
    history.write_text(json.dumps({"stage": "wrap", "seconds": 7200.0, "parameters": 139_584}), encoding="utf-8")
    before = set(Path().rglob("*"))
    rows = {line.split()[0]: line.split() for line in show("experiment=tiny").splitlines()[2:]}
    assert rows["wrap"][-2:] == ["7,200", "s"]
    assert rows["verify"][-3:] == ["no", "earlier", "run"]
    (shown,) = json.loads(show("experiment=tiny", "--json"))
    assert shown["parameters"] == 139_584
    assert list(shown["stages"]) == ["wrap", "export", "simplify", "quantize", "engine", "verify", "bench"]
    assert shown["cache_row"] == 2 * 2 * 2 * 16 * 64 * 4
    assert set(Path().rglob("*")) == before


def test_a_sweep_has_a_plan_for_each_point(show: Show) -> None:
    """A larger cache takes more."""
    small, large = json.loads(show("-m", "experiment=tiny", "cache.size=64,128", "--json"))
    assert large["cache_row"] == 2 * small["cache_row"]
    assert [small["point"], large["point"]] == ["tiny-cache_size_64", "tiny-cache_size_128"]


def test_mistakes_are_shown_as_by_the_front_door(show: Show) -> None:
    """All at once."""
    with pytest.raises(UserError) as error:
        show("cache.size=0", "model=nope")
    assert len(error.value.problems) == 2


def test_what_does_not_fit_is_an_error(show: Show) -> None:
    """Whether or not check_size is set; the front door's check obeys it."""
    for more in ([], ["--check"], ["check_size=false"]):
        with pytest.raises(UserError, match=r"stage wrap of the point huge holds .* GB of memory; this machine"):
            show(*HUGE, "point=huge", *more)
    assert show(*HUGE, "point=huge", "check_size=false", "--check") == ""


def test_a_model_without_known_sizes_is_left_to_the_stages(show: Show) -> None:
    """Its mistake is reported where it always was."""
    assert show("--check", "experiment=tiny", "model.architecture=jamba") == ""
    with pytest.raises(UserError, match="are not known before its weights are loaded"):
        show("experiment=tiny", "model.architecture=jamba")


def test_a_type_that_is_refused_has_no_plan(show: Show) -> None:
    """Nor would it be checked."""
    for check in ((), ("--check",)):
        with pytest.raises(UserError, match="'clip' is not a causal LM"):
            show(*check, "experiment=tiny", "model.architecture=clip")


def front_door(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a process."""
    command = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)


def test_the_front_door_refuses_what_does_not_fit_before_any_work() -> None:
    """With the numbers; nothing is recorded."""
    done = front_door(*HUGE, "point=huge")
    assert done.returncode == 1
    assert "error: stage wrap of the point huge holds" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert points.FILE.read_text(encoding="utf-8") == PARAMS


def test_the_check_can_be_left_out() -> None:
    """Then the build starts, which fails here as there is no dvc.yaml; the key is no part of the point."""
    done = front_door(*HUGE, "point=huge", "check_size=false")
    assert "error: there is no dvc.yaml" in done.stderr
    assert points.read()["huge"] == HUGE
