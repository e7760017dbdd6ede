"""open: an engine is opened by the module that its kind names, and by no other."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.tables.engines import KINDS, EngineKind
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine, why_unavailable


def test_an_engine_of_onnxruntime(tiny: tuple[Path, GraphContract]) -> None:
    """It runs here, with the threads that are asked for or else its own."""
    folder = tiny[0] / layout.ENGINE
    assert why_unavailable(folder) is None
    opened = open_engine(folder, threads=1)
    assert isinstance(opened, OnnxRuntime)
    assert opened.inference.get_session_options().intra_op_num_threads == 1


def test_the_kind_names_the_module(tiny: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another module in the kind's row is asked instead; no kind falls to one that is written down elsewhere."""
    module, problem = ModuleType("other"), Problem("it is Sunday", "engine.kind", "wait")
    monkeypatch.setattr(module, "why_unavailable", lambda folder, info: problem, raising=False)
    monkeypatch.setitem(sys.modules, "other", module)
    kind = EngineKind.onnxruntime
    monkeypatch.setitem(KINDS, kind, replace(KINDS[kind], runtime="other"))
    assert why_unavailable(tiny[0] / layout.ENGINE) == problem
    with pytest.raises(AttributeError, match="open_engine"):
        open_engine(tiny[0] / layout.ENGINE)


def test_a_folder_without_an_engine(tmp_path: Path) -> None:
    """The message says how to get one."""
    for ask in (open_engine, why_unavailable):
        with pytest.raises(UserError, match="there is no engine in"):
            ask(tmp_path)
