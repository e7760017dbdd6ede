"""tensorrt_api: which module is taken, what it must be able to do, and what is said when it is not there."""

import importlib.util
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.core.errors import Problem, UserError
from pipeline.core.tables.engines import EngineKind
from pipeline.runtime import tensorrt_api
from pipeline.runtime.tensorrt_api import TensorRT
from tests.support.repository import ROOT
from tests.support.tensorrt import rtx


def refusal(kind: EngineKind, module: Any) -> Problem:
    """What is said about a module that cannot do the work."""
    with pytest.raises(UserError) as error:
        TensorRT(kind, module)
    return error.value.problems[0]


def without(name: str) -> ModuleType:
    """A copy of the installed module that lacks a name, as an older version does."""
    copy = ModuleType("older")
    copy.__dict__.update({key: value for key, value in vars(rtx().trt).items() if key != name})
    return copy


def test_tensorrt_rtx_can_do_it_all() -> None:
    """The version in requirements.lock takes lengths, and builds for GPUs that are not there."""
    api = rtx()
    assert api.product == f"TensorRT-RTX {api.version}"
    assert api.lengths
    assert {"8.6", "8.9", "12.0"} <= api.targets.keys()
    assert api.targets["12.0"] == api.trt.ComputeCapability.SM120
    assert not api.timing_cache


def test_what_is_not_installed_names_its_extra() -> None:
    """Full TensorRT cannot be had from the package index alone; the message names the extra, not a traceback."""
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    with pytest.raises(UserError, match=r"pip install -e '\.\[tensorrt\]'") as error:
        tensorrt_api.load(EngineKind.tensorrt)
    assert error.value.problems[0].where == "engine.kind"


def test_an_empty_module_of_the_name_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package index has stubs that import and hold nothing."""
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(UserError, match="tensorrt has no Builder"):
        tensorrt_api.load(EngineKind.tensorrt)


@pytest.mark.parametrize(
    ("version", "has", "says"),
    [
        ("8.6.1", (), "no attention operator"),
        ("10.13.3", (), "cannot write a cache in place"),
        ("10.14.1", ("IAttention",), "cannot write a cache in place"),
    ],
)
def test_versions_that_are_too_old(version: str, has: tuple[str, ...], says: str) -> None:
    """8.6 to 10.14 are refused for what they lack, which is looked for by name."""
    module = SimpleNamespace(__version__=version, **dict.fromkeys(has, object))
    problem = refusal(EngineKind.tensorrt, module)
    assert f"TensorRT {version} is too old" in problem.what
    assert says in problem.what
    assert ("attention" in problem.what) == (not has)
    assert "10.15 or later" in problem.fix


def test_without_causal_kinds_there_are_no_lengths() -> None:
    """10.15 and 10.16 have attention and caches, but masks alone."""
    assert not TensorRT(EngineKind.tensorrt, without("CausalMaskKind")).lengths
    assert TensorRT(EngineKind.tensorrt, without("nothing")).lengths


def test_nothing_else_needs_tensorrt() -> None:
    """The stages and the front door import without it."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings')))\n"
        "from pipeline import engine, verify, bench, generate, __main__\n"
        "from pipeline.backends.tensorrt import build\n"
        "from pipeline.core.tables.engines import EngineKind; build.tensorrt_api.load(EngineKind.tensorrt_rtx)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "pip install -e '.[tensorrt-rtx]'" in done.stderr.splitlines()[-1]
