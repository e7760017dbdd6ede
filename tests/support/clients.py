"""Engines for clients."""

import shutil
from dataclasses import replace
from pathlib import Path

from pipeline import engine
from pipeline.core import layout
from pipeline.core.schema import Engine, EngineKind, Profile, section


def engine_for_clients(point: Path) -> Path:
    """Build one of a point's final model in place of the point's engine."""
    out = point / layout.ENGINE
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    options = replace(section(Engine, point), kind=EngineKind.onnxruntime_client)
    engine.build(point / layout.WRAPPED, layout.final_model(point), options, section(Profile, point), out)
    return out
