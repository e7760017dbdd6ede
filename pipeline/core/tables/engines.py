"""The kinds of engines: one row each, with all that is known of a kind outside its own modules.

To add a kind: a value of EngineKind and its row here; a module that builds it (BuilderModule in pipeline.engine) and
one that runs it (RuntimeModule in pipeline.runtime.open), or another kind's; an option in conf/engine/; a test.

Modules are named here, not imported: what runs engines does not import what builds them, and no kind needs the packages
of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pipeline.core import layout


class EngineKind(Enum):
    """Who runs the engine."""

    onnxruntime = "onnxruntime"
    onnxruntime_client = "onnxruntime_client"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"


@dataclass(frozen=True)
class Kind:
    """What is known of one kind."""

    product: str  # its name in messages
    builder: str  # the module that builds it
    runtime: str  # the module that runs it
    model: str  # its file in engine/
    config_keys: tuple[str, ...]  # of the section `engine`, besides `kind`
    info_keys: Mapping[str, type]  # of engine.json, besides those of every kind
    distributions: tuple[str, ...]  # that may provide it; the first that is installed counts
    extra: str | None = None  # of pyproject.toml; None where every installation has it
    modules: tuple[str, ...] = ()  # Python modules of TensorRT that may have it, tried in this order
    static_costs: bool = False  # whether a profile of one shape makes it store all weights once more


CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDERS = (CPU, CUDA, TENSORRT)  # of ONNX Runtime
ON_ONNXRUNTIME = (EngineKind.onnxruntime, EngineKind.onnxruntime_client)
ONNXRUNTIME_KEYS: dict[str, type] = {
    "provider": str,
    "provider_options": dict,
    "optimization": str,
    "threads": int,
    "onnxruntime": str,
    "needs": str,
}
PLAN_KEYS: dict[str, type] = {"version": str, "targets": list}

KINDS: dict[EngineKind, Kind] = {
    EngineKind.onnxruntime: Kind(
        product="ONNX Runtime",
        builder="pipeline.backends.onnxruntime.build",
        runtime="pipeline.runtime.onnxruntime",
        model=layout.MODEL,
        config_keys=("provider", "lower", "int8_activations", "window_cache", "optimization", "threads"),
        info_keys=ONNXRUNTIME_KEYS,
        distributions=("onnxruntime", "onnxruntime-gpu"),
    ),
    EngineKind.onnxruntime_client: Kind(
        product="ONNX Runtime",
        builder="pipeline.backends.onnxruntime.build",
        runtime="pipeline.runtime.onnxruntime_client",
        model=layout.MODEL,
        config_keys=("provider", "int8_activations", "optimization", "threads"),
        info_keys=ONNXRUNTIME_KEYS,
        distributions=("onnxruntime", "onnxruntime-gpu"),
    ),
    EngineKind.tensorrt: Kind(
        product="TensorRT",
        builder="pipeline.backends.tensorrt.build",
        runtime="pipeline.runtime.tensorrt",
        model=layout.PLAN,
        config_keys=("workspace_gb",),
        info_keys=PLAN_KEYS,
        distributions=("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt"),
        extra="tensorrt",
        modules=("tensorrt",),
        static_costs=True,
    ),
    EngineKind.tensorrt_rtx: Kind(
        product="TensorRT-RTX",
        builder="pipeline.backends.tensorrt.build",
        runtime="pipeline.runtime.tensorrt",
        model=layout.PLAN,
        config_keys=("targets", "workspace_gb"),
        info_keys=PLAN_KEYS,
        distributions=("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
        extra="tensorrt-rtx",
        modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        static_costs=True,
    ),
}


def install(kind: EngineKind) -> str:
    """The command that installs what a kind needs, in a checkout: kvforge is on no package index."""
    extra = KINDS[kind].extra
    return f"pip install -e '.[{extra}]'" if extra else "pip install --no-deps -r requirements.lock"
