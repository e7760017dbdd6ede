"""locked: what has changed since a point was built, by dvc.lock."""

from pathlib import Path

from pipeline.reporting import locked

LOCK = """
schema: '2.0'
stages:
  compose@p:
    params: {params.yaml: {points.p: [a=1]}}
  wrap@p:
    params: {params.yaml: {cache: {size: 64}, cache.size: 64, model: {id: null, list: [1, 2]}}}
  verify@p:
    params:
      params.yaml:
        verify: {kl: 1e-07, seed: 0}
      ../toolchain.json: {torch: '2'}
  bench@p: {cmd: x}
"""
PARAMS = {"cache": {"size": 64}, "model": {"id": None, "list": [1, 2]}, "verify": {"kl": 1e-7, "seed": 0}}


def test_nothing_has_changed(tmp_path: Path) -> None:
    """A number that YAML reads as text equals its number."""
    (tmp_path / "dvc.lock").write_text(LOCK)
    lock = locked.read(tmp_path / "dvc.lock")
    assert list(locked.changes(lock, "p", ["a=1"], PARAMS)) == []
    assert list(locked.changes(lock, "other", ["a=1"], PARAMS)) == []


def test_what_has_changed_is_named(tmp_path: Path) -> None:
    """Overrides, and the sections that a stage read."""
    (tmp_path / "dvc.lock").write_text(LOCK)
    lock = locked.read(tmp_path / "dvc.lock")
    params = PARAMS | {"cache": {"size": 65}, "model": {"id": None, "list": [1]}, "verify": {"kl": 2e-7, "seed": 0}}
    assert list(locked.changes(lock, "p", [], params)) == [
        "its overrides were a=1 when it was built",
        "cache and model changed since stage wrap ran",
        "verify changed since stage verify ran",
    ]


def test_no_lock_says_nothing(tmp_path: Path) -> None:
    """Nor does one that cannot be read."""
    path = tmp_path / "dvc.lock"
    assert locked.read(path) == {}
    for text in ("", "stages: 3", "{", "- a"):
        path.write_text(text)
        assert locked.read(path) == {}
    assert list(locked.changes({"compose@p": None, "wrap@p": {"params": 1}}, "p", [], {})) == []
