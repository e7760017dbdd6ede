"""Points for tests: composed by the real configuration, built by the real stages, in a folder of the test's own."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from omegaconf import OmegaConf

from pipeline import engine, export, quantize, simplify, wrap
from pipeline.config.compose import compose
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.schema import Model, Quantize, Verify, section
from pipeline.text import texts
from tests.support import common, dvc_yaml

ROOT = Path(__file__).parents[2]
STAGES = (wrap, export, simplify, quantize, engine)


def composed(overrides: list[str]) -> dict[str, Any]:
    """A point's params, as plain values."""
    params = OmegaConf.to_container(compose(overrides, ROOT / "conf"), resolve=True, enum_to_str=True)
    assert isinstance(params, dict)
    return {str(section): values for section, values in params.items()}


def write_point(folder: Path, params: dict[str, Any]) -> None:
    """What the compose stage leaves in a point's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.PARAMS).write_text(yaml.safe_dump(params))
    write_link(section(Model, folder), folder)
    texts.write_link(section(Verify, folder).quality.text, texts.QUALITY, folder)
    texts.write_link(section(Quantize, folder).calibration.text, texts.CALIBRATION, folder)


def build(folder: Path, overrides: list[str], last: ModuleType = engine, **sections: dict[str, Any]) -> GraphContract:
    """Build a tiny point in `folder` up to a stage; `sections` replace whole sections of its params."""
    write_point(folder, composed(["experiment=tiny", *overrides]) | sections)
    for stage in STAGES[: STAGES.index(last) + 1]:
        _run(stage, folder)
    return GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)


def build_once(
    folder: Path, overrides: list[str], last: ModuleType = engine, **sections: dict[str, Any]
) -> GraphContract:
    """Build a point of random weights as `build` does, but copy what a stage made of equal params in another test.

    Not for tests that change how a stage works or look at what it prints. The copy may be changed.
    """
    params = composed(["experiment=tiny", *overrides]) | sections
    assert params["model"]["source"] == "random", "a checkpoint's files may change under an equal path"
    write_point(folder, params)
    made_of = ""
    for stage in STAGES[: STAGES.index(last) + 1]:
        name = stage.__name__.rpartition(".")[2]
        # test_dvc_yaml.py holds that a stage reads these sections and no others
        read = {section: params.get(section) for section in sorted(dvc_yaml.params(name, None))}
        made_of = hashlib.sha256(json.dumps([made_of, name, read]).encode()).hexdigest()
        (out,) = dvc_yaml.declared(name)["outs"]
        with common.once(f"{name}-{made_of[:16]}") as (kept, made):
            if not made:
                _run(stage, folder)
                shutil.copytree(folder / out, kept)
            else:
                shutil.copytree(kept, folder / out)
    return GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)


def _run(stage: ModuleType, folder: Path) -> None:
    with contextlib.chdir(folder):
        stage.main()
