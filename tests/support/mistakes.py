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
