"""Open an engine folder with the runtime that it was built for."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import Problem, UserError
from pipeline.layout import ENGINE_INFO, MODEL
from pipeline.session import Bounds, Runtime
from pipeline.signature import Signature
from pipeline.spec import EngineKind


def profile_bounds(profiles: dict[str, Any]) -> Bounds:
    """The sizes that an engine takes, from the profiles in its engine.json."""
    return {name: {axis: (ends["min"], ends["max"]) for axis, ends in axes.items()} for name, axes in profiles.items()}


def open_engine(folder: Path) -> Runtime:
    """Load the engine in `folder`. Raises UserError when there is none, or none that runs here."""
    if not (folder / ENGINE_INFO).exists():
        raise UserError(
            Problem(
                f"there is no engine in {folder}",
                "point",
                f"build it with dvc repro, or go back to the last one that was finished: dvc checkout {folder}",
            )
        )
    info = json.loads((folder / ENGINE_INFO).read_text())
    if info["kind"] != EngineKind.onnxruntime.value:
        from pipeline.run_tensorrt import TensorRT

        return TensorRT(folder, info)
    from pipeline.run_onnxruntime import OnnxRuntime  # one runtime's import must not be another's need

    return OnnxRuntime(
        folder / MODEL,
        Signature.from_dict(info["signature"]),
        profile_bounds(info["profiles"]),
        optimization=info["optimization"],
        threads=info["threads"],
        provider=info["provider"],
        provider_options=info["provider_options"],
    )


def cannot_run(folder: Path) -> str | None:
    """Why the engine in `folder` cannot run on this machine; None when it can. What is built may be for another."""
    info = json.loads((folder / ENGINE_INFO).read_text())
    if info["kind"] == EngineKind.onnxruntime.value:
        from pipeline import run_onnxruntime

        return what(run_onnxruntime.obstacle(info["provider"]))
    from pipeline.tensorrt_plan import obstacle

    return what(obstacle(folder, info))


def what(problem: Problem | None) -> str | None:
    """What is wrong, if anything is."""
    return None if problem is None else problem.what
