"""A package runs where the repository is not: in an environment of its own requirements; damage to it is named."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.generate import Generator
from pipeline.package import package
from pipeline.packaging import licence
from tests.support import packages, repository

TEXT = "What is a cache? Be brief."


def tokens(generator: Generator, prompts: list[list[int]], new: int) -> list[str]:
    """The new tokens of each row, as run.py prints them."""
    steps = list(generator.tokens(prompts, new))
    return [" ".join(str(t) for t in row if t is not None) for row in zip(*steps, strict=True)]


@pytest.mark.slow
def test_a_package_answers_in_an_environment_of_its_own(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Text and tokens equal those of generate; one flipped bit of the weights is named."""
    point = packages.ready(tiny[0], tmp_path / "point", speaks=True)
    package(point, tmp_path / "mine.tar")
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "mine.tar", "-C", tmp_path / "elsewhere"], check=True)
    folder, python = tmp_path / "elsewhere" / "mine", tmp_path / "venv/bin/python"
    install = ["pip", "install", "--python", str(python), "-r", "requirements.txt"]
    for command in (["venv", str(tmp_path / "venv")], install):
        done = subprocess.run([sys.executable, "-m", "uv", *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    installed = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "freeze", "--python", python], capture_output=True, text=True, check=True
    )
    assert not {"torch", "transformers", "onnx"} & {line.split("==")[0] for line in installed.stdout.splitlines()}

    def run(file: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-I", "-W", "error", folder / file, *arguments]
        return subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True)

    generator = Generator.load(point / layout.ENGINE)
    answered = run("run.py", TEXT, "--max-new-tokens", "12")
    assert (answered.stderr, answered.returncode) == ("", 0)
    assert answered.stdout == "".join(generator.stream(TEXT, 12)) + "\n"
    prompts = [list(range(1, 46)), [11, 12], [13, 14, 15], [16], [17, 18]]  # the engine takes 4 at once
    given = [" ".join(map(str, prompt)) for prompt in prompts]
    counted = run("run.py", "--tokens", *given, "--max-new-tokens", "20")
    assert (counted.stderr, counted.returncode) == ("", 0)
    assert counted.stdout.splitlines() == [*tokens(generator, prompts[:4], 20), *tokens(generator, prompts[4:], 20)]
    several = run("run.py", TEXT, "no", "--no-chat", "--max-new-tokens", "3")
    assert len(several.stdout.splitlines()) == 2
    refused = run("run.py", TEXT, "--max-new-tokens", "99")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: prompt 0 has ")

    assert run("check.py").returncode == 0
    data = bytearray((folder / layout.DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / layout.DATA).write_bytes(data)
    damaged = run("check.py")
    assert damaged.returncode == 1
    assert damaged.stderr.splitlines()[0] == f"{layout.DATA}: changed"


def test_what_stands_in_the_way_comes_at_once(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """A missing proof and an existing folder, which is not touched; other archives than .tar are not written."""
    point = packages.ready(tiny[0], tmp_path / "point")
    (point / layout.VERIFY).unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(UserError) as caught:
        package(point, tmp_path / "out")
    assert [problem.where for problem in caught.value.problems] == [str(point / layout.VERIFY), "OUT"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    with pytest.raises(UserError, match=r"neither a folder nor a \.tar"):
        package(point, tmp_path / "x.tar.gz")


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_nothing_is_left_of_a_package_that_fails(
    tiny: tuple[Path, GraphContract], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Neither the folder nor what was written beside it."""
    point = packages.ready(tiny[0], tmp_path / "point")

    def full(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(licence, "find", full)
    with pytest.raises(OSError):  # noqa: PT011  # it has no text
        package(point, tmp_path / "made" / name)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """On a point that DVC built and verified; refused once its engine was changed."""
    folder = repository.built().copy(tmp_path / "repository")
    command = [sys.executable, "-m", "pipeline.package", "tiny"]
    done = repository.run(folder, *command, "a/tiny.tar")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a/tiny.tar: ")
    assert (folder / "a/tiny.tar").exists()
    data = folder / "artifacts/tiny/engine" / layout.DATA
    changed = bytearray(data.read_bytes())
    changed[0] ^= 1
    data.unlink()
    data.write_bytes(changed)
    refused = repository.run(folder, *command, "c")
    assert refused.returncode == 1
    assert "error: modified since it was verified\n  where: artifacts/tiny/engine\n" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (folder / "c").exists()
