"""sources: local files, packages, and what is refused before anything is loaded."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from pipeline.config import sources
from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.schema import Model, Source
from tests.support import gguf_files
from tests.support.points import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with safetensors, as far as the files tell."""
    path = tmp_path / "checkpoint of mine"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    save_file({"weight": np.zeros(3, np.float32)}, path / "model.safetensors")
    return path


def refusal(model: Model) -> Problem:
    """The one problem of a model."""
    with pytest.raises(UserError) as error:
        sources.find(model)
    (problem,) = error.value.problems
    return problem


@pytest.mark.parametrize("source", [Source.local, Source.gguf])
def test_a_path_that_the_system_refuses(source: Source) -> None:
    """Below a folder of another user's, for example; here with a name longer than any file system takes."""
    found = refusal(Model(source, path="x" * 300 + ".gguf"))
    assert "cannot be read: File name too long" in found.what
    assert found.where == "model.path"


def test_a_local_folder(folder: Path) -> None:
    """A folder with a configuration and safetensors is found, under its absolute path."""
    assert sources.find(Model(Source.local, path=str(folder))) == folder


def test_paths_are_relative_to_the_repository_or_the_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path starts at the working folder, and ~ is the user's own."""
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for path in (folder.name, f"~/{folder.name}"):
        assert sources.find(Model(Source.local, path=path)) == folder


def test_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """model.package is located, not run."""
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    gguf_files.write(package / "a.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    model = Model(Source.gguf, package="carries_a_model", path="a.gguf")
    assert sources.find(model) == package / "a.gguf"
    assert "carries_a_model" not in sys.modules


@pytest.mark.parametrize("source", [Source.hub, Source.random])
def test_other_sources_have_no_local_file(source: Source) -> None:
    """The hub and random weights are identified by text."""
    assert sources.find(Model(source, id="a/b", architecture="llama")) is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert(folder: Path, name: str) -> None:
    """Loading a pickle runs its code, so it is the user who converts it, once."""
    (folder / "model.safetensors").rename(folder / name)
    problem = refusal(Model(Source.local, path=str(folder)))
    assert name in problem.what
    assert f"save_pretrained('{folder}-safetensors')" in problem.fix


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path) -> None:
    """The safetensors are what is loaded."""
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert sources.find(Model(Source.local, path=str(folder))) == folder


@pytest.mark.parametrize(
    ("missing", "says"),
    [("", "there is no"), ("config.json", "no config.json"), ("model.safetensors", "no weights")],
)
def test_incomplete_folders(folder: Path, missing: str, says: str) -> None:
    """A folder that is not there, or has no configuration or weights, is refused by name."""
    if missing:
        (folder / missing).unlink()
    problem = refusal(Model(Source.local, path=str(folder) if missing else f"{folder}/nope"))
    assert problem.where == "model.path"
    assert says in problem.what


def test_a_gguf_file_is_named_itself(folder: Path) -> None:
    """A folder is not a GGUF file."""
    assert "not a GGUF file" in refusal(Model(Source.gguf, path=str(folder))).what


@pytest.mark.parametrize("package", ["not_installed_at_all", "os.nope", "json", ""])
def test_a_package_that_carries_nothing(package: str) -> None:
    """A package that is not installed, or has no such file, is a user's mistake."""
    assert refusal(Model(Source.gguf, package=package, path="a.gguf")).where in ("model.package", "model.path")


def test_a_package_is_named_by_its_module() -> None:
    """A distribution may have another name than the module that it installs: no name is advised to pip."""
    fix = refusal(Model(Source.gguf, package="not_installed", path="a.gguf")).fix
    assert "provides the module not_installed" in fix
    assert "pip install" not in fix


def test_the_link_points_to_the_files(folder: Path, tmp_path: Path) -> None:
    """DVC hashes what the link points to; making it again replaces it and touches nothing behind it."""
    for _ in range(2):
        sources.write_link(Model(Source.local, path=str(folder)), tmp_path)
    link = tmp_path / layout.CHECKPOINT
    assert link.is_symlink()
    assert link.resolve() == folder
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_of_the_hub_is_a_line_of_text(folder: Path, tmp_path: Path) -> None:
    """It names repository and revision, and takes the place of an earlier link."""
    sources.write_link(Model(Source.local, path=str(folder)), tmp_path)
    sources.write_link(Model(Source.hub, id="a/b", revision="v1"), tmp_path)
    assert (tmp_path / layout.CHECKPOINT).read_text() == "hub a/b@v1\n"
    assert folder.exists()


def test_a_preset_whose_file_is_not_there_says_how_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The preset gemma3_270m_gguf reads a file that the Makefile writes, under the name that the preset has."""
    monkeypatch.chdir(tmp_path)
    path = yaml.safe_load((ROOT / "conf/model/gemma3_270m_gguf.yaml").read_text())["path"]
    fix = refusal(Model(Source.gguf, path=path)).fix
    assert fix == "run make gemma3, which downloads 240 MB in four packages"
    assert f"GEMMA := {path}" in (ROOT / "Makefile").read_text()


def test_a_gguf_file_that_cannot_be_built_is_refused(tmp_path: Path) -> None:
    """All problems at once, before anything is loaded: a split file with an unknown pre-tokenizer."""
    path = gguf_files.write(tmp_path / "model-00001-of-00002.gguf", {"split.count": 2, "tokenizer.ggml.pre": "nope"})
    with pytest.raises(UserError) as error:
        sources.find(Model(Source.gguf, path=str(path)))
    assert [problem.where for problem in error.value.problems] == ["model.path"] * 2
