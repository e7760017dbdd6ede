"""make coverage: the tiny configurations, the processes of the types, and the page."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.coverage import attempt, report
from benchmarks.coverage.attempt import ENGINES, failed
from benchmarks.coverage.configurations import merged, tiny, types
from benchmarks.coverage.families import FAMILIES
from pipeline import export, verify
from pipeline.proof.results import Result
from pipeline.verify import Verification
from tests.support.points import ROOT
from tests.support.tensorrt import rtx


def row(onnxruntime: str, tensorrt: str, category: str = "", reason: str = "") -> dict[str, Any]:
    """A type's row."""
    return {"onnxruntime": onnxruntime, "tensorrt_rtx": tensorrt, "category": category, "reason": reason, "seconds": 2}


def results(**rows: dict[str, Any]) -> dict[str, Any]:
    """All rows."""
    return {"versions": {"torch": "2"}, "types": rows}


def test_configurations() -> None:
    """Sizes follow from the names of keys; layers of several kinds alternate; nested configurations are tiny too."""
    assert tiny("llama")["num_hidden_layers"] == 2
    gemma = tiny("gemma3")["text_config"]
    assert gemma["layer_types"] == ["sliding_attention", "full_attention"] * 2
    assert gemma["num_hidden_layers"] == 4
    assert gemma["sliding_window"] < 32
    latent = tiny("deepseek_v3")
    assert latent["num_key_value_heads"] == latent["num_attention_heads"]
    assert tiny("bert")["is_decoder"] is True
    assert merged({"a_config": {"b": 1, "c": 2}, "d": 3}, {"a_config": {"b": 4}}) == {
        "a_config": {"b": 4, "c": 2},
        "d": 3,
    }


def test_configurations_are_json() -> None:
    """They go through params.yaml; and no family is left whose type transformers has no more."""
    json.dumps([tiny(kind) for kind in types() if not kind.endswith("assistant")])
    assert FAMILIES.keys() <= set(types())


WORK = """
import os, sys, time
from pathlib import Path
from benchmarks.coverage.workers import Limits, each

def work(name):
    print("told by", name)
    if name == "hangs": time.sleep(60)
    if name == "works": [None for _ in iter(int, 1) if _]
    if name == "dies": os.abort()
    if name == "grows": bytearray(2**32)
    return {"name": name}

for names, limits in ((["fine", "hangs", "dies", "grows"], (3, 60, 2**28)), (["works"], (60, 1, 2**28))):
    for name, result in each(names, work, 2, Limits(*limits), Path(sys.argv[1])):
        print(name, result)
"""


def test_a_process_that_fails_costs_its_row_only(tmp_path: Path) -> None:
    """One hangs, one crashes, one takes too much memory, one works for too long; each tells what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=60)
    lines = sorted(done.stdout.splitlines())
    assert lines == [
        "dies its process ended with -6",
        "fine {'name': 'fine'}",
        "grows its process ended with 1",
        "hangs took longer than 3 s",
        "works its process ended with -9",
    ]
    assert "told by fine" in (tmp_path / "fine.log").read_text()
    assert "MemoryError" in (tmp_path / "grows.log").read_text()


def test_reason_of_a_failure() -> None:
    """The first failure, and how many there are."""
    good, bad = Result(), Result(failures=["logits differ"])
    assert failed({"wrapped": {"prefill": good}}) == ""
    assert failed({"wrapped": {"prefill": good, "decode": bad}}) == "wrapped, decode: logits differ"
    both = failed({"wrapped": {"decode": bad}, "onnx": {"decode": bad}})
    assert both == "wrapped, decode: logits differ (and 1 more)"


def test_what_is_refused_is_refused_for_both_engines(tmp_path: Path) -> None:
    """A model with a state of a kind of its own: the reason names it, and nothing is built."""
    found = attempt.attempt("rwkv", tmp_path)
    assert [found[engine] for engine in ENGINES] == ["refused", "refused"]
    assert "a state other than keys and values" in found["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "engines"), [("gpt2", ["onnxruntime"]), ("mamba", list(ENGINES))])
def test_a_type_is_built_and_verified(
    kind: str, engines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages and all cases: of one engine, and of both for Mamba, whose recurrence is a loop in TensorRT."""
    if "tensorrt_rtx" in engines:
        rtx()
    monkeypatch.setattr(attempt, "ENGINES", {engine: ENGINES[engine] for engine in engines})
    found = attempt.attempt(kind, tmp_path)
    assert found | {"seconds": 0} == dict.fromkeys(engines, "pass") | {"category": "", "reason": "", "seconds": 0}


def test_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A case that fails in ONNX Runtime leaves TensorRT's status; a stage that raises is the failure of both."""
    answers = iter(
        [Verification({}, {}, {"wrapped": {"decode": Result(failures=["wrong"])}}), Verification({}, {}, {})]
    )
    monkeypatch.setattr(attempt, "STAGES", ())
    monkeypatch.setattr(verify, "verify", lambda *_: next(answers))
    found = attempt.attempt("gpt2", tmp_path / "case")
    assert found | {"seconds": 2} == row("fail", "pass", "verify", "wrapped, decode: wrong")
    monkeypatch.setattr(attempt, "STAGES", (export,))  # there is nothing to export
    found = attempt.attempt("gpt2", tmp_path / "stage")
    assert found["onnxruntime"] == found["tensorrt_rtx"] == "fail"
    assert found["category"] == "export"


def test_changes() -> None:
    """A status that is not as before, types that are new or gone, versions."""
    before = results(a=row("pass", "pass"), b=row("refused", "refused", "x", "why"), c=row("pass", "pass"))
    after = results(a=row("pass", "fail", "verify", "wrong"), b=row("pass", "pass"), d=row("pass", "pass"))
    after["versions"] = {"torch": "3"}
    assert list(report.changes(before, after)) == [
        "torch 2 -> 3",
        "a: TensorRT-RTX pass -> fail: wrong",
        "b: ONNX Runtime refused -> pass: why",
        "b: TensorRT-RTX refused -> pass: why",
        "c: gone",
        "d: new",
    ]
    assert list(report.changes(after, after)) == []


def test_page(tmp_path: Path) -> None:
    """Counts, what passes, and the others by category, the largest first."""
    found = results(
        a=row("pass", "pass"),
        b=row("refused", "refused", "recurrent state", "a | b"),
        c=row("refused", "refused", "recurrent state", "why"),
        d=report.crashed("took too long"),
    )
    report.write(found, tmp_path / "coverage.md")
    page = (tmp_path / "coverage.md").read_text()
    assert "4 types. ONNX Runtime: 1 pass, 1 fail, 2 refused; TensorRT-RTX: 1 pass, 1 fail, 2 refused." in page
    assert "`a`\n" in page
    assert page.index("**recurrent state** (2)") < page.index("**crash** (1)")
    assert "| `b` | refused | refused | a \\| b |" in page
    assert report.line("d", found["types"]["d"]).endswith("crash: took too long")
