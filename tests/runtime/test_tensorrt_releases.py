"""What pipeline/ uses of TensorRT exists in every release that it supports, or is looked for first."""

import io
import shutil
import subprocess
from functools import cache

import numpy as np
import onnx
import pytest
import torch

from pipeline.core.contract import Tensor
from pipeline.runtime.tensorrt_api import NEEDED
from tests.support import tensorrt_releases
from tests.support.repository import ROOT
from tests.support.tensorrt_releases import RELEASES, RTX, TOO_OLD, Release, has, signatures, takes
from tests.support.tensorrt_uses import COMPUTED, GUARDS, MODULES, OBJECTS, uses

pytestmark = pytest.mark.slow
USES = uses()
EVERY = pytest.mark.parametrize("version", [*RELEASES, RTX])
# Objects of other libraries: an attribute that one of them has too does not show that an object is TensorRT's.
OTHERS = (list, dict, set, str, io.TextIOBase, Tensor, np.ndarray, torch.Tensor, onnx.TensorProto(), onnx.GraphProto())


@cache
def api(version: str) -> Release:
    """The API of a release. Skips the test without the tools or the wheels that it takes."""
    if version == RTX:
        pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    for tool in ("gcc", "nm", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    try:
        return tensorrt_releases.release(version)
    except subprocess.CalledProcessError as error:
        if "download" in error.cmd:
            pytest.skip(f"the wheel of tensorrt-cu13-bindings {version} cannot be downloaded")
        raise


@EVERY
def test_names_exist(version: str) -> None:
    """A name that a release lacks is used only by modules that look for it, or for what it comes with."""
    lacking = [
        f"{name} in {module}"
        for name, modules in USES.names.items()
        for module in modules
        if not has(api(version), name) and not tensorrt_releases.guarded(USES, name, module, api(version))
    ]
    assert not lacking


def test_the_release_before_the_oldest_is_refused() -> None:
    """tensorrt_api.NEEDED says why: 10.14 has attention, and no cache that is written in place."""
    assert [name for name in NEEDED if not has(api(TOO_OLD), name)] == ["IKVCacheUpdateLayer"]
    assert all(has(api(RELEASES[0]), name) for name in NEEDED)


@EVERY
def test_calls_have_as_many_arguments_as_are_taken(version: str) -> None:
    """By the signatures in the docstrings of the bindings."""
    calls = [(name, count) for name, counts in USES.calls.items() for count in counts]
    assert not [(name, count) for name, count in calls if not takes(api(version), name, count)]


def test_signatures_are_read() -> None:
    """Overloads, defaults and types with commas in them; a call that no signature takes is found."""
    newest = api(RELEASES[-1])
    assert takes(newest, "OnnxParser.parse", 1)
    assert takes(newest, "OnnxParser.parse", 2)
    assert not takes(newest, "OnnxParser.parse", 3)
    assert takes(newest, "ICudaEngine.create_execution_context", 0)
    assert not takes(newest, "IOptimizationProfile.set_shape", 3)
    apis = [newest, api(RTX)]
    assert not [name for name in USES.calls if not any(signatures(one, name) for one in apis)]


def test_no_use_is_overlooked() -> None:
    """Every attribute with a name that only TensorRT's objects have is one of an object whose class is known."""
    members = {name for version in (*RELEASES, RTX) for names in api(version).values() for name in names}
    members = {name for name in members if not any(hasattr(kind, name) for kind in OTHERS)}
    assert not {f"{where}.{name}" for name in members & USES.unknown.keys() for where in USES.unknown[name]}


def test_lists_are_not_stale() -> None:
    """What is declared beside the source still occurs in it, and nothing else there uses TensorRT's module."""
    assert USES.objects == OBJECTS.keys()
    assert USES.computed.keys() == COMPUTED.keys()
    assert USES.sought.keys() >= GUARDS.keys()
    sources = {path.relative_to(ROOT / "pipeline"): path.read_text() for path in (ROOT / "pipeline").rglob("*.py")}
    assert {str(path) for path, text in sources.items() if ".trt" in text or "trt." in text} <= set(MODULES)


def test_the_table_is_up_to_date() -> None:
    """`make tensorrt-releases` writes it."""
    for version in (*RELEASES, RTX):
        api(version)
    assert (ROOT / "docs" / "engines" / "tensorrt-releases.md").read_text() == "\n".join(
        tensorrt_releases.table()
    ) + "\n"
