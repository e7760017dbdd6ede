"""The engine folder stands on its own and says what it is."""

import importlib.metadata
import json
import shutil
from pathlib import Path

import onnx
import pytest

from pipeline import engine
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.schema import Engine, Profile, section
from pipeline.runtime.open import open_engine


def test_engine_json_says_what_was_built(tiny: tuple[Path, GraphContract]) -> None:
    """Who runs it, how, which version built it, its profiles and the whole contract."""
    folder, contract = tiny
    info = json.loads((folder / layout.ENGINE / layout.ENGINE_INFO).read_text())
    assert info["kind"] == "onnxruntime"
    assert info["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert info["profiles"]["decode"]["sequence"] == {"min": 1, "opt": 1, "max": 1}
    assert GraphContract.from_dict(info["signature"]) == contract


def test_engine_folder_runs_elsewhere(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """A copy of the folder alone generates; generation config comes with it, the program does not."""
    copy = Path(shutil.copytree(tiny[0] / layout.ENGINE, tmp_path / "engine"))
    assert open_engine(copy).session(1).step([[1, 2]]).shape == (1, 1, 512)
    assert {p.name for p in copy.iterdir()} == {
        layout.MODEL, layout.DATA, layout.ENGINE_INFO, "generation_config.json"
    }  # fmt: skip


def test_weights_are_the_same_bytes_from_stage_to_stage(tiny: tuple[Path, GraphContract]) -> None:
    """So DVC's cache holds them once for onnx/, simplified/ and engine/."""
    files = [tiny[0] / artifact / layout.DATA for artifact in (layout.ONNX, layout.SIMPLIFIED, layout.ENGINE)]
    assert len({file.read_bytes() for file in files}) == 1
    assert files[0].stat().st_size >= 2 * 512 * 64 * 4  # embedding and head


def test_a_model_that_does_not_load_is_refused(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """An engine is loaded before the stage succeeds; what ONNX Runtime says is in the message."""
    folder, _ = tiny
    broken = Path(shutil.copytree(folder / layout.SIMPLIFIED, tmp_path / "simplified"))
    model = onnx.load(broken / layout.MODEL, load_external_data=False)
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, broken / layout.MODEL)
    with pytest.raises(UserError, match="onnxruntime does not load the model"):
        engine.build(folder / layout.WRAPPED, broken, section(Engine, folder), section(Profile, folder), tmp_path)
