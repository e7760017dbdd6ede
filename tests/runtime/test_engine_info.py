"""engine.json: what is refused when an engine is opened, with the file and the command that builds it anew."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.backends.onnxruntime.build import needed
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.runtime import engine_info
from pipeline.runtime.open import open_engine, why_unavailable

Info = dict[str, Any]
ONE = {"min": 1, "opt": 1, "max": 1}


def without(*keys: str) -> Callable[[Info], str]:
    """The file without some keys."""
    return lambda info: json.dumps({key: value for key, value in info.items() if key not in keys})


def having(**values: Any) -> Callable[[Info], str]:
    """The file with other values."""
    return lambda info: json.dumps(info | values)


def sizes(low: Any, high: Any) -> Info:
    """Profiles of which one axis goes from low to high."""
    return {"decode": {"batch": {"min": low, "opt": low, "max": high}, "sequence": ONE}}


def signed(**values: Any) -> Callable[[Info], str]:
    """The file with other values in its signature."""
    return lambda info: json.dumps(info | {"signature": info["signature"] | values})


@pytest.fixture
def engine(tiny: tuple[Path, GraphContract], tmp_path: Path) -> Path:
    """A copy of the tiny engine, as that of a point called mine."""
    return Path(shutil.copytree(tiny[0] / layout.ENGINE, tmp_path / "mine" / layout.ENGINE))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (without("format"), ["built by another version of kvforge: it has format None, this one reads 1, 2, 3"]),
        (having(format=4), ["built by another version of kvforge: it has format 4, this one reads 1, 2, 3"]),
        (lambda _: "[1]", ["built by another version of kvforge"]),
        (
            having(kind="onnx_runtime"),
            ["unknown kind of engine 'onnx_runtime'; it must be one of onnxruntime, onnxruntime_client, tensor"],
        ),
        (without("kind"), ["unknown kind of engine None"]),
        (without("threads", "signature"), ["the key signature is missing", "the key threads is missing"]),
        (having(kind="tensorrt"), ["the key version is missing", "the key targets is missing"]),
        (having(kind=[]), ["unknown kind of engine []"]),
        (having(profiles={"decode": {"batch": {"min": 1}}}), ["profiles is damaged: it lacks the key 'opt'"]),
        (
            having(profiles={"decode": {"batch": {"min": 1, "opt": 1, "max": 1}}}),
            ["profiles is damaged: it lacks the key 'sequ"],
        ),
        (having(profiles={}), ["profiles is damaged: there is no profile"]),
        (having(profiles=[]), ["profiles is damaged"]),
        (having(profiles=sizes("a", 4)), ["profiles is damaged: decode.batch has min 'a', opt 'a', max 4"]),
        (having(profiles=sizes(True, 4)), ["profiles is damaged: decode.batch has min True, opt True, max 4"]),
        (having(profiles=sizes(1, 4.0)), ["profiles is damaged: decode.batch has min 1, opt 1, max 4.0"]),
        (having(profiles=sizes(5, 4)), ["profiles is damaged: decode.batch has min 5, opt 5, max 4"]),
        (having(signature=[]), ["signature is damaged"]),
        (
            signed(windows={"past_key_values.0.key": 65}),
            ["signature is damaged: the window of past_key_values.0.key is"],
        ),
        (having(signature={}), ["signature is damaged: it lacks the key"]),
        (having(needs=None), ["needs is null, not of type str"]),
        (having(needs="x", threads="2"), ['threads is "2", not of type int', "needs is 'x', not a version"]),
        (having(threads=-1, optimization="most"), ["optimization is 'most'; it must be one of none", "threads is -1"]),
        (having(provider=None, provider_options={"a": 1}), ["provider is null", 'provider_options holds {"a": 1}']),
        (having(kind="tensorrt", version="11.1", targets=[8.9]), ["targets holds [8.9]; its values must be text"]),
        (signed(outputs=[]), ["signature is damaged: there is no output logits"]),
        (signed(aliases={}), ["signature is damaged: aliases names tensors that are not there"]),
        (signed(aliases={"logits": "x"}), ["signature is damaged: aliases names tensors that are not there"]),
        (signed(cache_size="64"), ["signature is damaged: cache_size is '64'"]),
        (
            signed(outputs=[{"name": "logits", "dtype": "float32", "shape": ["batch", 1, "vocab"]}]),
            ["['batch', 1, 'vo"],
        ),
        (lambda info: json.dumps(info)[:100], ["this is not JSON"]),
        (lambda _: "", ["this is not JSON"]),
        (having(onnxruntime="9.1.0", needs="9.0"), ["the engine needs ONNX Runtime 9.0 or later, this is 1."]),
    ],
)
def test_a_file_that_cannot_be_read(engine: Path, changed: Callable[[Info], str], says: list[str]) -> None:
    """One problem for each fault; it names the file, and how to build the engine again."""
    path = engine / layout.ENGINE_INFO
    path.write_text(changed(json.loads(path.read_text())))
    with pytest.raises(UserError) as error:
        open_engine(engine)
    for problem, text in zip(error.value.problems, says, strict=True):
        assert text in problem.what
        assert str(path) in problem.where
        assert "dvc repro engine@mine" in problem.fix
    if "engine needs" not in says[0]:
        with pytest.raises(UserError):
            why_unavailable(engine)


def test_bytes_that_are_no_text(engine: Path) -> None:
    """The file names the fault, too."""
    (engine / layout.ENGINE_INFO).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not JSON"):
        open_engine(engine)


def test_a_file_that_the_system_cannot_read(engine: Path) -> None:
    """Another user's file, a bad disk; here a folder in its place, and memory that is not mapped."""
    path = engine / layout.ENGINE_INFO
    for make, says in ((path.mkdir, "Is a directory"), (lambda: path.symlink_to("/proc/self/mem"), "Input/output")):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        make()
        with pytest.raises(UserError, match=f"engine.json cannot be read: {says}"):
            engine_info.read(engine)


@pytest.mark.parametrize(
    ("here", "runs"),
    [("1.31.1", False), ("1.32.0", True), ("1.32.0.dev20260801", True), ("1.33.1", True), ("2.0", True)],
)
def test_versions_of_the_runtime(engine: Path, here: str, runs: bool) -> None:
    """Lowered attention takes 1.32 or later, whatever built it; both versions are in the message."""
    info = engine_info.read(engine)
    assert info.raw["needs"] == "1.32"
    problem = engine_info.too_old(engine, info, here)
    assert (problem is None) == runs
    if isinstance(problem, Problem):
        assert f"needs ONNX Runtime 1.32 or later, this is {here}" in problem.what


def test_what_is_needed_depends_on_the_graph(tiny: tuple[Path, GraphContract]) -> None:
    """Standard operators run in older versions, as on CUDA: the only build for it is 1.31."""
    from pipeline.graph import onnx_file

    assert needed(onnx_file.load(tiny[0] / layout.ENGINE)) == "1.32"
    assert needed(onnx_file.load(tiny[0] / layout.SIMPLIFIED)) == "1.28"
