"""TensorRT and TensorRT-RTX behind one adapter: which module, what it can do, what it says.

    api = tensorrt_api.load(EngineKind.tensorrt_rtx)   # UserError: not installed, or a version that cannot do it
    api.trt                                            # the module itself
    api.lengths                                        # whether attention takes the lengths of keys and values
    builder = api.builder()                            # what it logs lies in api.log

What a version can do is asked of the module by name, never looked up in a table: enums and flags moved between 10 and
11, and TensorRT-RTX counts its versions on its own. `tensorrt` is imported here alone, and only when it is asked for.
"""

import re
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.dtypes import BY_TENSORRT
from pipeline.core.engines import KINDS, EngineKind, install
from pipeline.core.errors import Problem, UserError

NEEDED = {  # what the static cache and its attention are made of -> why there is no way around it
    "IAttention": "it has no attention operator (10.14 is the first with one)",
    "IKVCacheUpdateLayer": "it cannot write a cache in place (10.15 is the first that can)",
}


@dataclass
class Log:
    """What TensorRT has said, by severity; nothing goes to the terminal by itself."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def max_logged(self, label: str) -> int | None:
        """The largest number that the notes give for a label, such as "Total Activation Memory", which is logged once
        per profile; None when it was not logged."""
        found = [re.search(rf"{label}: (\d+)", note) for note in self.notes]
        return max((int(match[1]) for match in found if match), default=None)


class TensorRT:
    """One imported module, its logger and its capabilities."""

    def __init__(self, kind: EngineKind, trt: Any) -> None:
        self.kind = kind
        self.trt = trt
        self.log = Log()
        self.version = str(trt.__version__)
        self.product = f"{KINDS[kind].product} {self.version}"
        missing = [why for name, why in NEEDED.items() if not hasattr(trt, name)]
        if missing:
            where = "engine.kind"
            fix = f"install {KINDS[kind].product} 10.15 or later: {install(kind)}"
            raise UserError(Problem(f"{self.product} is too old: {'; '.join(missing)}", where, fix))
        # Kept here, as TensorRT holds no reference to it. It hears every error that an IErrorRecorder is told; one of
        # those in Python crashes TensorRT-RTX 1.7.1 when the network is freed.
        self.logger = _logger(trt, self.log)

    @property
    def lengths(self) -> bool:
        """Whether attention can be causal to the lower right with each row's own length; without, masks do it."""
        kinds = getattr(self.trt, "CausalMaskKind", None)
        return hasattr(kinds, "LOWER_RIGHT") and hasattr(self.trt.IAttention, "key_value_lengths")

    @property
    def targets(self) -> dict[str, Any]:
        """The compute capabilities that it can build for without a GPU: "8.6" -> its enum; none where it has no such
        choice and builds for the GPU at hand."""
        if not hasattr(self.trt.IBuilderConfig, "num_compute_capabilities"):
            return {}
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(self.trt.ComputeCapability)}
        known = [(int(m[1]), int(m[2]), name) for name, m in found.items() if m]
        return {f"{major}.{minor}": getattr(self.trt.ComputeCapability, name) for major, minor, name in sorted(known)}

    @property
    def timing_cache(self) -> bool:
        """Whether builds measure tactics on a GPU and can keep the timings; those of TensorRT-RTX do neither."""
        return self.kind is EngineKind.tensorrt and hasattr(self.trt.IBuilderConfig, "create_timing_cache")

    def builder(self) -> Any:
        """A new Builder. Raises UserError where it makes none: full TensorRT needs a GPU to build."""
        try:
            return self.trt.Builder(self.logger)
        except (TypeError, RuntimeError) as error:  # pybind's, for a null pointer
            said = self.log.errors[-1] if self.log.errors else str(error)
            fix = "build on the machine that has the GPU, or engine=tensorrt_rtx, which builds without one"
            raise UserError(Problem(f"{self.product} cannot build here: {said}", "engine.kind", fix)) from error

    def network(self, builder: Any) -> Any:
        """An empty strongly typed network: the types are the graph's, none is chosen by the builder."""
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def numpy_type(self, dtype: Any) -> str:
        """NumPy's name of a DataType, "float16"; TensorRT's own where NumPy and ml_dtypes have no such type."""
        name = str(dtype.name)
        return BY_TENSORRT[name].name if name in BY_TENSORRT else name.lower()


def load(kind: EngineKind) -> TensorRT:
    """Import the module of an engine kind. Raises UserError when there is none, or one that cannot do the work."""
    return TensorRT(kind, _import(kind))


def user_cache_file(api: TensorRT, what: str) -> Path:
    """A file in the user's cache that later processes read: timings, or compiled kernels. No artifact depends on it."""
    return Path.home() / ".cache" / "kvforge" / f"{api.trt.__name__}-{api.version}.{what}"


def _import(kind: EngineKind) -> ModuleType:
    reasons = []
    for name in KINDS[kind].modules:
        try:
            module = import_module(name)
        except Exception as error:  # its __init__ loads libraries, and raises whatever that raises
            reasons.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
            continue
        if hasattr(module, "Builder"):  # the package index has an empty stub of the name
            return module
        reasons.append(f"{name} has no Builder")
    what = f"{KINDS[kind].product} is not installed ({'; '.join(reasons)})"
    raise UserError(Problem(what, "engine.kind", f"{install(kind)}, or another option of engine/"))


def _logger(trt: Any, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the module's type is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                log.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                log.warnings.append(message)
            elif severity == trt.ILogger.Severity.INFO:
                log.notes.append(message)

    return Logger()
