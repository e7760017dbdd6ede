"""Open an engine folder with the runtime that it was built for."""

from pathlib import Path

from pipeline.core.errors import Problem, UserError
from pipeline.core.layout import MODEL
from pipeline.core.schema import EngineKind
from pipeline.runtime import engine_info
from pipeline.runtime.session import Runtime


def open_engine(folder: Path, threads: int | None = None) -> Runtime:
    """Load the engine in `folder`. Raises UserError when there is none, or none that runs here.

    threads: of ONNX Runtime on the CPU, in place of those in engine.json.
    """
    info = engine_info.read(folder)
    if info.kind is not EngineKind.onnxruntime:
        from pipeline.runtime.tensorrt import TensorRT

        return TensorRT(folder, info)
    from pipeline.runtime import onnxruntime as run_onnxruntime  # one runtime's import must not be another's need

    problem = engine_info.too_old(folder, info, run_onnxruntime.version())
    if problem is not None:
        raise UserError(problem)
    return run_onnxruntime.OnnxRuntime(
        folder / MODEL,
        info.contract,
        info.profiles,
        optimization=info.raw["optimization"],
        threads=info.raw["threads"] if threads is None else threads,
        provider=info.raw["provider"],
        provider_options=info.raw["provider_options"],
    )


def cannot_run(folder: Path) -> str | None:
    """Why the engine in `folder` cannot run on this machine; None when it can. What is built may be for another."""
    info = engine_info.read(folder)
    if info.kind is EngineKind.onnxruntime:
        from pipeline.runtime import onnxruntime as run_onnxruntime

        return what(run_onnxruntime.obstacle(info.raw["provider"]))
    from pipeline.runtime.tensorrt_plan import obstacle

    return what(obstacle(folder, info.raw))


def what(problem: Problem | None) -> str | None:
    """What is wrong, if anything is."""
    return None if problem is None else problem.what
