"""Points for tests: composed by the real configuration, built by the real stages, in a folder of the test's own."""

import contextlib
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

ROOT = Path(__file__).parents[2]
STAGES = (wrap, export, simplify, quantize, engine)


def composed(overrides: list[str]) -> dict[str, Any]:
    """A point's params, as plain values."""
    params = OmegaConf.to_container(compose(overrides, ROOT / "conf"), resolve=True, enum_to_str=True)
    assert isinstance(params, dict)
    return params


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
        with contextlib.chdir(folder):
            stage.main()
    return GraphContract.load(folder / layout.WRAPPED / layout.CONTRACT)
