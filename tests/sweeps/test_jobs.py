"""The jobs of a command line; tests/test_main.py has the mistakes that are found in them."""

from pathlib import Path

import pytest

from pipeline.sweeps import jobs
from tests.support.repository import make


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository as the working folder."""
    monkeypatch.chdir(make(tmp_path))


def test_each_job_has_its_name_overrides_and_values() -> None:
    """In the order of the command line; what concerns Hydra and the check of sizes is not of a point."""
    found = jobs.plan(["experiment=tiny", "cache.size=64,32", "check_size=false", "hydra/launcher=joblib"], sweep=True)
    assert found.overrides == {
        "tiny-cache_size_64": ["experiment=tiny", "cache.size=64"],
        "tiny-cache_size_32": ["experiment=tiny", "cache.size=32"],
    }
    assert [values["cache"]["size"] for values in found.configurations.values()] == [64, 32]
    assert found.unchecked == set()


def test_sizes_are_checked_of_points_that_are_not_built() -> None:
    """One that has been verified is not checked again."""
    assert jobs.plan(["experiment=tiny"], sweep=False).unchecked == {"tiny"}
    Path("params.yaml").write_text("points: {tiny: [experiment=tiny]}\n", encoding="utf-8")
    Path("artifacts/tiny").mkdir(parents=True)
    Path("artifacts/tiny/accuracy.json").write_text('{"engine": {}}', encoding="utf-8")
    assert jobs.plan(["experiment=tiny"], sweep=False).unchecked == set()


def test_what_concerns_hydra() -> None:
    """Its launcher, and settings of it."""
    given = ["experiment=tiny", "hydra/launcher=joblib", "+hydra.launcher.n_jobs=2", "model.id=hydra"]
    assert jobs.of_hydra(given) == ["hydra/launcher=joblib", "+hydra.launcher.n_jobs=2"]
