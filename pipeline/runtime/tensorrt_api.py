"""One adapter for TensorRT and TensorRT-RTX: the module, its capabilities, its log.

    api = tensorrt_api.load(EngineKind.tensorrt_rtx)   # UserError: not installed, or too old
    api.trt                                            # the module itself
    api.lengths                                        # whether attention takes the lengths of keys and values
    builder = api.builder()                            # its messages are in api.log

Capabilities are detected by the module's names, not by its version: enums and flags moved between 10 and 11, and
TensorRT-RTX has version numbers of its own. Only this module imports TensorRT, and only when it is needed.
"""

import re
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.errors import Problem, UserError
from pipeline.core.tables.dtypes import BY_TENSORRT
from pipeline.core.tables.engines import KINDS, EngineKind, install

NEEDED = {  # class that the static cache and its attention need -> what its absence means
    "IAttention": "it has no attention operator (10.14 is the first with one)",
    "IKVCacheUpdateLayer": "it cannot write a cache in place (10.15 is the first that can)",
}


@dataclass
class Log:
    """TensorRT's messages by severity; none is printed."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def max_logged(self, label: str) -> int | None:
        """The largest number that the notes give for a label, such as "Total Activation Memory", which is logged once
        per profile; None when it was not logged."""
        found = [re.search(rf"{label}: (\d+)", note) for note in self.notes]
        return max((int(match[1]) for match in found if match), default=None)


class TensorRT:
    """One imported module, its log and its capabilities."""

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
        # Kept here, as TensorRT holds no reference to it. It receives every error that an IErrorRecorder would; an
        # IErrorRecorder in Python crashes TensorRT-RTX 1.7.1 when the network is freed.
        self.logger = _logger(trt, self.log)

    @property
    def lengths(self) -> bool:
        """Whether attention can be causal to the lower right of each row's length; if not, masks are used."""
        kinds = getattr(self.trt, "CausalMaskKind", None)
        return hasattr(kinds, "LOWER_RIGHT") and hasattr(self.trt.IAttention, "key_value_lengths")

    @property
    def targets(self) -> dict[str, Any]:
        """The compute capabilities that can be built for without a GPU, "8.6" -> its enum; none where plans are built
        for the GPU of this machine."""
        if not hasattr(self.trt.IBuilderConfig, "num_compute_capabilities"):
            return {}
        found = {name: re.fullmatch(r"SM(\d+)(\d)", name) for name in dir(self.trt.ComputeCapability)}
        known = [(int(m[1]), int(m[2]), name) for name, m in found.items() if m]
        return {f"{major}.{minor}": getattr(self.trt.ComputeCapability, name) for major, minor, name in sorted(known)}

    @property
    def timing_cache(self) -> bool:
        """Whether builds time kernels on a GPU and can keep the timings; those of TensorRT-RTX do neither."""
        return self.kind is EngineKind.tensorrt and hasattr(self.trt.IBuilderConfig, "create_timing_cache")

    def builder(self) -> Any:
        """Make a Builder. Raises UserError where that fails: full TensorRT needs a GPU to build."""
        try:
            return self.trt.Builder(self.logger)
        except (TypeError, RuntimeError) as error:  # pybind's, for a null pointer
            said = self.log.errors[-1] if self.log.errors else str(error)
            fix = "build on the machine that has the GPU, or engine=tensorrt_rtx, which builds without one"
            raise UserError(Problem(f"{self.product} cannot build here: {said}", "engine.kind", fix)) from error

    def network(self, builder: Any) -> Any:
        """Make an empty strongly typed network: its types are those of the graph, the builder chooses none."""
        return builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def numpy_type(self, dtype: Any) -> str:
        """NumPy's name of a DataType, "float16"; TensorRT's own where NumPy and ml_dtypes have no such type."""
        name = str(dtype.name)
        return BY_TENSORRT[name].name if name in BY_TENSORRT else name.lower()


def load(kind: EngineKind) -> TensorRT:
    """Import the module of an engine kind. Raises UserError when it is not installed or too old."""
    return TensorRT(kind, _import(kind))


def user_cache_file(api: TensorRT, what: str) -> Path:
    """A file in the user's cache that later processes read: timings, or compiled kernels. No artifact depends on it."""
    return Path.home() / ".cache" / "kvforge" / f"{api.trt.__name__}-{api.version}.{what}"


def _import(kind: EngineKind) -> ModuleType:
    reasons = []
    for name in KINDS[kind].modules:
        try:
            module = import_module(name)
        except Exception as error:  # its __init__ loads libraries, which may raise anything
            reasons.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
            continue
        if hasattr(module, "Builder"):  # the package index has an empty stub with this name
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
