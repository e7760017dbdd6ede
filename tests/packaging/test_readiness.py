"""Which points are refused, and whether DVC's word about a changed file is understood."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.packaging import readiness
from pipeline.runtime import engine_info
from tests.support import packages


@pytest.fixture
def point(tiny: tuple[Path, GraphContract], tmp_path: Path) -> Path:
    """A point that can be packaged."""
    return packages.ready(tiny[0], tmp_path / "point")


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    text = path.read_text(encoding="utf-8")
    path.write_text(json.dumps(json.loads(text) | values), encoding="utf-8")


def found(point: Path) -> list[str]:
    """What stands in the way."""
    return [f"{p.what} / {p.fix}" for p in readiness.problems(point, engine_info.read(point / layout.ENGINE))]


def test_a_verified_point_is_ready(point: Path) -> None:
    """Nothing stands in the way."""
    assert found(point) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"passed": False}, "did not pass / dvc repro verify@point shows the failures"),
        ({"skipped": {"engine": "there is no GPU"}}, "not run where it was verified: there is no GPU"),
        ({"artifacts": {"onnx": {}}}, "does not have the engine / dvc repro verify@point"),
    ],
)
def test_a_missed_proof_is_refused(point: Path, change: dict[str, Any], what: str) -> None:
    """With what to do."""
    edit(point / layout.VERIFY, **change)
    (problem,) = found(point)
    assert what in problem


@pytest.mark.parametrize("report", [layout.VERIFY, layout.ACCURACY])
def test_a_missing_proof_is_refused(point: Path, report: str) -> None:
    """Either report."""
    (point / report).unlink()
    assert found(point) == ["the engine has not been verified / dvc repro verify@point"]


@pytest.mark.parametrize(
    ("change", "product"),
    [
        ({"kind": "tensorrt", "version": "10.15", "targets": []}, "TensorRT"),
        ({"provider": "CUDAExecutionProvider"}, "CUDAExecutionProvider"),
    ],
)
def test_engines_for_gpus_are_refused_by_name(point: Path, change: dict[str, Any], product: str) -> None:
    """The runner is for the CPU."""
    edit(point / layout.ENGINE / layout.ENGINE_INFO, **change)
    (problem,) = found(point)
    assert problem.startswith(f"the engine runs on {product};")


def test_a_tokenizer_for_transformers_alone_is_refused(point: Path) -> None:
    """It has no tokenizer.json."""
    (point / layout.ENGINE / "tokenizer_config.json").write_text("{}")
    (problem,) = found(point)
    assert "no tokenizer.json" in problem


@pytest.mark.parametrize(
    ("status", "files"),
    [
        ({}, []),
        ({"verify@p": [{"changed deps": {"artifacts/p/engine": "modified"}}]}, ["artifacts/p/engine"]),
        ({"verify@p": [{"changed outs": {"artifacts/p/verify.json": "not in cache"}}]}, ["artifacts/p/verify.json"]),
        ({"verify@p": ["changed command", {"changed deps": {"pipeline/proof": "modified"}}]}, []),
    ],
)
def test_only_changed_artifacts_count(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any], files: list[str]
) -> None:
    """A newer pipeline does not change what was verified. test_package.py has DVC's real answers."""
    done = subprocess.CompletedProcess([], 0, json.dumps(status), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    problems = readiness.changed("p", Path("artifacts"))
    assert [problem.where for problem in problems] == files


def test_dvc_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a pass."""
    done = subprocess.CompletedProcess([], 255, "", "ERROR: you are not inside of a DVC repository")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    (problem,) = readiness.changed("p", Path("artifacts"))
    assert "not inside of a DVC repository" in problem.what
