"""parity: what verify found, as shares of gates."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import layout
from pipeline.proof.metrics import METRICS, Better
from pipeline.reporting import parity
from pipeline.reporting.records import Text, Worst

LIMITS = {"kl": {"value": 0.5, "key": "verify.gates.kl"}, "top1": {"value": 0.9, "key": "verify.quality.top1"}}


def report(**cases: dict[str, Any]) -> dict[str, Any]:
    """A report of one artifact with these cases."""
    return {"limits": {"engine": LIMITS}, "skipped": {}, "artifacts": {"engine": cases}}


def passed(**figures: float) -> dict[str, Any]:
    """A case that passed."""
    return {"passed": True, **figures, "failures": []}


def test_the_metrics_of_which_more_is_better() -> None:
    """Are those that verify gates so."""
    assert {m.name for m in METRICS.values() if m.better is Better.higher and m.section} == parity.HIGHER


@pytest.mark.parametrize(
    ("metric", "value", "gate", "share"),
    [("kl", 0.1, 0.4, 0.25), ("kl", 0.0, 0.0, 0.0), ("kl", -0.1, 0.4, 0.0), ("kl", 0.1, 0.0, None),
     ("top1", 0.95, 0.9, 0.5), ("top1", 1.0, 1.0, 0.0), ("top1", 0.5, 1.0, None)],
)  # fmt: skip
def test_shares_of_gates(metric: str, value: float, gate: float, share: float | None) -> None:
    """From 0, perfect, to 1, the gate; a gate that allows nothing has no shares."""
    found = parity.share(metric, value, gate)
    assert found == (share if share is None else pytest.approx(share))


def test_a_case_names_the_figure_nearest_to_its_gate() -> None:
    """A gate that verify.headroom widened is the wider one; a missed gate of 0 is nearest of all."""
    given = report(a=passed(kl=0.1, top1=0.91), b=passed(kl=1.0) | {"widened": {"kl": 2.0}}, c={"not_run": "no room"})
    (artifact,) = parity.artifacts(given)
    a, b, c = artifact.cases
    assert a.tightest == "top1"
    assert a.share == pytest.approx(0.9)
    assert (b.tightest, b.share, b.widened) == ("kl", 0.5, {"kl": 2.0})
    assert (c.not_run, c.passed, c.tightest) == ("no room", True, "")
    assert artifact.worst == {"kl": Worst(1.0, "b", 2.0), "top1": Worst(0.91, "a", pytest.approx(0.9))}
    given["limits"]["engine"] = {"kl": {"value": 0.0, "key": "verify.gates.kl"}, "top1": LIMITS["top1"]}
    assert parity.artifacts(given)[0].cases[0].tightest == "kl"


def test_failures_are_named_with_artifact_and_case() -> None:
    """A number that is not finite is no figure, but fails."""
    given = report(a={"passed": False, "kl": "nan", "failures": ["logits is not finite", "more"]}, b=passed())
    found = parity.artifacts(given)
    assert not found[0].passed
    assert found[0].cases[0].figures == {}
    assert list(parity.failures(found)) == ["artifact engine, case a: logits is not finite"]


def test_a_report_without_gates_or_text() -> None:
    """Of an earlier version: figures without shares."""
    given = {"artifacts": {"engine": {"a": passed(kl=0.1)}}}
    (artifact,) = parity.artifacts(given)
    assert artifact.worst == {"kl": Worst(0.1, "a", None)}
    assert parity.texts(given) == ()
    assert parity.artifacts({}) == ()


def test_a_real_report(proven: Path) -> None:
    """Every figure with a gate has a share, and each text is there."""
    real = json.loads((proven / layout.VERIFY).read_text())
    found = parity.artifacts(real)
    assert [artifact.name for artifact in found] == ["wrapped", "onnx", "simplified", "quantized", "engine"]
    for artifact in found:
        assert artifact.gates.keys() <= artifact.worst.keys()
        assert all(artifact.worst[metric].share is not None for metric in artifact.gates)
    texts = parity.texts(real)
    assert len(texts) == 3
    assert texts[0] == Text(real["texts"][0]["prompt"], real["texts"][0]["text"], real["texts"][0].get("original"))
