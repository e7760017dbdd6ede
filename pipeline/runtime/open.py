"""Open an engine folder with the runtime that it was built for."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from pipeline.core.errors import Problem
from pipeline.core.tables.engines import KINDS, EngineKind
from pipeline.runtime import engine_info
from pipeline.runtime.engine_info import EngineInfo
from pipeline.runtime.session import Runtime


class RuntimeModule(Protocol):
    """What a module that runs a kind of engine offers."""

    def open_engine(self, folder: Path, info: EngineInfo, threads: int | None) -> Runtime:
        """Load the engine in `folder`. Raises UserError when it does not run here."""

    def why_unavailable(self, folder: Path, info: EngineInfo) -> Problem | None:
        """Why the engine in `folder` does not run on this machine; None when it should."""


def open_engine(folder: Path, threads: int | None = None) -> Runtime:
    """Load the engine in `folder`. Raises UserError when there is none, or when it does not run here.

    threads: replaces the number in engine.json; only ONNX Runtime on the CPU uses it.
    """
    info = engine_info.read(folder)
    return _module(info.kind).open_engine(folder, info, threads)


def why_unavailable(folder: Path) -> Problem | None:
    """Why the engine in `folder` cannot run on this machine, as it may be built for another; None when it should.

    Raises UserError when there is no engine.
    """
    info = engine_info.read(folder)
    return _module(info.kind).why_unavailable(folder, info)


def _module(kind: EngineKind) -> RuntimeModule:
    """Imported when it is needed: no kind's packages are needed for another."""
    return cast(RuntimeModule, import_module(KINDS[kind].runtime))
