"""Whether a TensorRT plan can run here: it takes the very version that built it, and a GPU that it was built for."""

from pathlib import Path
from typing import Any

from pipeline.core import hardware
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import EngineKind
from pipeline.runtime import tensorrt_api
from pipeline.runtime.device import unreachable
from pipeline.runtime.engine_info import rebuild


def obstacle(folder: Path, info: dict[str, Any]) -> Problem | None:
    """Why the plan in `folder`, with the engine.json `info`, does not run here; None when it should."""
    kind = EngineKind(info["kind"])
    product = tensorrt_api.PRODUCTS[kind]
    targets = ", ".join(info["targets"])
    again = f"build it again here: {rebuild(folder)}"
    gpus = hardware.gpus()
    if not gpus:
        what = f"there is no NVIDIA GPU here; the plan is for compute capability {targets}"
        return Problem(what, "engine.kind", "run it on a machine with one, or take engine=onnxruntime_cpu")
    if not any(capability in info["targets"] for _, capability in gpus):
        here = "; ".join(f"{name}, {capability}" for name, capability in gpus)
        what = f"the plan is for compute capability {targets}, the GPU here is {here}"
        return Problem(what, "engine.targets", f"add it to engine.targets where {product} builds for it, and {again}")
    return other_version(folder, info) or unreachable()


def other_version(folder: Path, info: dict[str, Any]) -> Problem | None:
    """What is wrong with the TensorRT that is installed, beside the one that built the plan; None when they are one."""
    kind = EngineKind(info["kind"])
    try:
        version = tensorrt_api.load(kind).version
    except UserError as error:
        return error.problems[0]
    if version == info["version"]:
        return None
    what = f"the plan was built by {tensorrt_api.PRODUCTS[kind]} {info['version']}, here is {version}"
    return Problem(what, "engine", f"build it again here: {rebuild(folder)}; or install {info['version']}")
