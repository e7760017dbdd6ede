"""The table at the end of a build."""

import json
from pathlib import Path

import pytest

from pipeline.sweeps.summary import summary


def test_each_point_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of the reports, dashes for what is missing or failed, and below it what was not run and why."""
    monkeypatch.chdir(tmp_path)
    reports = {
        "good/bench.json": {"model_mb": 270.2, "prefill_s": 0.1, "decode_tok_s": 31.26},
        "good/accuracy.json": {"engine": {"perplexity": 20.0, "mean_kl": 1e-7}},
        "good/verify.json": {"passed": True},
        "half/engine/engine.json": {},
        "gpu/verify.json": {"passed": True, "skipped": {"engine": "no NVIDIA GPU"}},
        "bad/bench.json": {"model_mb": 1.0},
    }
    for name, values in reports.items():
        path = Path("artifacts", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    assert list(summary(["good", "gpu", "half", "bad"], {"bad": "verify: kl is 1"})) == [
        "point            size    prefill  decode      perplexity  mean KL",
        "good   verified  270 MB  0.100 s  31.3 tok/s  20.000      1.0e-07",
        "gpu    not run   -       -        -           -           -",
        "half   built     -       -        -           -           -",
        "bad    FAILED    -       -        -           -           -",
        "gpu: engine was not run: no NVIDIA GPU",
        "bad: failed in verify: kl is 1",
    ]
