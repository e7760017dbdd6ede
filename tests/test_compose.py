"""pipeline.compose: what the stage leaves in a point's folder."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import compose
from pipeline.config import points
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.schema import Axes, Cache, ComputeType, Model, Precision, Profile, Source, Verify, section
from tests.support.repository import make


@pytest.fixture(autouse=True)
def _repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make(tmp_path))


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the stage; the point's folder."""
    monkeypatch.setattr(sys, "argv", ["compose", name])
    compose.main()
    return points.ARTIFACTS / name


def test_sections_come_back_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is plain YAML, and each section reads back as its dataclass."""
    points.record("tiny", ["experiment=tiny", "precision=fp16", "bench.prompt=${axes.batch}"])
    folder = run("tiny", monkeypatch)
    values = yaml.safe_load((folder / layout.PARAMS).read_text())
    assert "point" not in values
    assert "hydra" not in values
    assert values["bench"]["prompt"] == 4
    assert section(Model, folder).source is Source.random
    assert section(Model, folder).config["num_hidden_layers"] == 2
    assert section(Axes, folder) == Axes(batch=4, sequence=32)
    assert section(Cache, folder).size == 64
    assert section(Precision, folder).compute is ComputeType.fp16
    assert section(Profile, folder).decode.batch.max == 4
    assert section(Verify, folder).gates.greedy_agreement == 0.97


def test_a_change_of_comments_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewriting every comment of conf/ gives the same params.yaml, byte for byte, so nothing is rebuilt."""
    written = (run("smollm2", monkeypatch) / layout.PARAMS).read_bytes()
    for file in Path("conf").rglob("*.yaml"):
        lines = [re.sub(r"# (?!@package).*", "# another comment", line) for line in file.read_text().splitlines()]
        file.write_text("\n\n".join(["# one more", *lines, ""]) if file.parent.name == "cache" else "\n".join(lines))
    assert (run("smollm2", monkeypatch) / layout.PARAMS).read_bytes() == written


def test_equal_points_have_equal_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point's name is not in its files, so that DVC's run cache serves one from the other."""
    points.record("one", ["experiment=tiny"])
    points.record("two", ["experiment=tiny", "cache=tiny"])
    one, two = run("one", monkeypatch), run("two", monkeypatch)
    for name in (layout.PARAMS, layout.CHECKPOINT):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("name", ["", "nope", "smollm2 tiny"])
def test_an_unknown_point(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that params.yaml does not hold is refused, with those that it holds."""
    with pytest.raises(UserError, match="choose one of smollm2"):
        run(name, monkeypatch)


def test_a_mistaken_point_leaves_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before everything is checked."""
    points.record("tiny", ["cache.size=0"])
    with pytest.raises(UserError, match=r"cache\.size is 0"):
        run("tiny", monkeypatch)
    assert not points.ARTIFACTS.exists()
