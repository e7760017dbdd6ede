"""Mistakes in a configuration, as the compose stage reports them."""

from pathlib import Path

import pytest

from pipeline.config.compose import compose
from pipeline.core.errors import Problem, UserError
from tests.support.repository import ROOT

CONF = ROOT / "conf"


def problems(*overrides: str, conf: Path = CONF) -> list[Problem]:
    """Return what is wrong with these overrides; fail if nothing is."""
    with pytest.raises(UserError) as error:
        compose(overrides, conf)
    return list(error.value.problems)


def assert_one_problem(overrides: list[str], where: str, says: str) -> None:
    """Fail unless there is one problem, with this place and text and a way out."""
    (problem,) = problems(*overrides)
    assert problem.where == where
    assert says in str(problem)
    assert problem.fix


def add_option(repository: Path, group: str, text: str) -> Path:
    """Write conf/<group>/mine.yaml in a test's repository; its conf/, relative to it."""
    (repository / "conf" / group / "mine.yaml").write_text(text)
    return Path("conf")
