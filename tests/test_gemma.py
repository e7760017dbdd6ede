"""The whole pipeline on Gemma 3 270M: a sliding window, sentencepiece, a base model that repeats itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import quantize
from pipeline.core import layout
from pipeline.core.schema import Embedding, Quantize, Weights
from pipeline.graph import onnx_file
from tests.support import repository
from tests.support.points import ROOT

FILE = Path("models/gemma-3-270m-q4_k_m.gguf")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.real,
    pytest.mark.skipif(not (ROOT / FILE).exists(), reason=f"needs {FILE.name}: make gemma3"),
]


def test_the_preset_is_verified(tmp_path: Path) -> None:
    """Its text repeats itself as the original's does; rows on both sides of its window; ids are sentencepiece's."""
    folder = repository.make_whole(tmp_path / "repository")
    (folder / FILE.parent).mkdir()
    (folder / FILE).symlink_to(ROOT / FILE)
    less = ("verify.quality.tokens=1024", "verify.greedy_tokens=64", "point=gemma")
    done = repository.run(folder, "python", "-m", "pipeline", "model=gemma3_270m_gguf", *less)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((folder / "artifacts/gemma/verify.json").read_text())
    assert report["passed"]
    engine = report["artifacts"]["engine"]
    assert engine["both sides of position 512"]["passed"]
    assert engine["token ids"] == {"passed": True, "failures": []}
    assert max(case["repetition"] for name, case in engine.items() if name.startswith("greedy")) > 0.2
    assert engine["quality"]["top1"] == 1

    # all kinds of a file in Q4_K_M keep their numbers in 4 or 8 bits
    options = Quantize(Weights.int4, 32, False, Embedding.int8, True)
    model = onnx_file.load(folder / "artifacts/gemma" / layout.SIMPLIFIED)
    entries = quantize.quantize(model, quantize.Quantizer(options, quantize.own_rows_of(ROOT / FILE, np.float32)))
    assert {(entry.exact, entry.rms) for entry in entries} == {(entry.rows, 0) for entry in entries}
    assert {entry.stored_as for entry in entries} == {"Q4_K", "Q5_0", "Q5_0, Q8_0", "Q6_K", "Q8_0"}
    shutil.rmtree(folder)
