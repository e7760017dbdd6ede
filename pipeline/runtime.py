"""Open an engine folder with the runtime that it was built for."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import Problem, UserError
from pipeline.layout import ENGINE_INFO, MODEL
from pipeline.session import Bounds, Runtime
from pipeline.signature import Signature


def profile_bounds(profiles: dict[str, Any]) -> Bounds:
    """The sizes that an engine takes, from the profiles in its engine.json."""
    return {name: {axis: (ends["min"], ends["max"]) for axis, ends in axes.items()} for name, axes in profiles.items()}


def open_engine(folder: Path) -> Runtime:
    """Load the engine in `folder`. Raises UserError when there is none."""
    if not (folder / ENGINE_INFO).exists():
        raise UserError(
            Problem(
                f"there is no engine in {folder}",
                "point",
                f"build it with dvc repro, or go back to the last one that was finished: dvc checkout {folder}",
            )
        )
    info = json.loads((folder / ENGINE_INFO).read_text())
    from pipeline.run_onnxruntime import OnnxRuntime  # one runtime's import must not be another's need

    return OnnxRuntime(
        folder / MODEL,
        Signature.from_dict(info["signature"]),
        profile_bounds(info["profiles"]),
        optimization=info["optimization"],
        threads=info["threads"],
    )
