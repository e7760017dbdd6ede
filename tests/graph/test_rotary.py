"""rotary: what onnxsim leaves written out in 16 bits becomes one operator, which says the same."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline import simplify
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Simplify, section
from pipeline.graph.rotary import fuse_rotary
from pipeline.runtime.onnxruntime import OnnxRuntime


def test_products_become_one_operator(
    half: tuple[Path, GraphContract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit; nothing of the products is left, and every weight stays where it was."""
    point, contract = half
    source = onnx.load(point / layout.ONNX / layout.MODEL, load_external_data=False)
    monkeypatch.setattr(simplify, "fuse_rotary", lambda model: model)
    before, _ = simplify.simplify(source, section(Simplify, point))
    after = fuse_rotary(before)
    operators = [simplify.counts(model) for model in (before, after)]
    assert ["RotaryEmbedding" in counts for counts in operators] == [False, True]
    assert operators[1]["RotaryEmbedding"] == 4
    assert "Neg" not in operators[1]
    logits = []
    for name, model in (("before", before), ("after", after)):
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(model, folder / layout.MODEL)
        shutil.copyfile(point / layout.ONNX / layout.DATA, folder / layout.DATA)
        session = OnnxRuntime(folder / layout.MODEL, contract, Profiles.of_axes(contract)).session(2)
        logits.append([session.step(tokens) for tokens in ([[1, 2, 3, 4], [5]], [[6], [7, 8, 9]], [[10], [11]])])
    np.testing.assert_array_equal(*logits)
