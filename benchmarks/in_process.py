"""Build a point in a folder of its own by the stages themselves, in this process: no DVC, no point in params.yaml."""

import contextlib
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from omegaconf import OmegaConf

from pipeline.config.compose import compose
from pipeline.config.sources import write_link
from pipeline.core import layout
from pipeline.core.schema import Model, Quantize, Verify, section
from pipeline.text import texts

CONF = Path(__file__).parents[1] / "conf"


def composed(overrides: list[str]) -> dict[str, Any]:
    """Return a point's params, as plain values."""
    params = OmegaConf.to_container(compose(overrides, CONF), resolve=True, enum_to_str=True)
    assert isinstance(params, dict)
    return {str(section): values for section, values in params.items()}


def write_point(folder: Path, params: dict[str, Any]) -> None:
    """Write what the compose stage leaves in a point's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / layout.PARAMS).write_text(yaml.safe_dump(params))
    write_link(section(Model, folder), folder)
    texts.write_link(section(Verify, folder).quality.text, texts.QUALITY, folder)
    texts.write_link(section(Quantize, folder).calibration.text, texts.CALIBRATION, folder)


def run(stage: ModuleType, folder: Path) -> None:
    """Run a stage in a point's folder."""
    with contextlib.chdir(folder):
        stage.main()
