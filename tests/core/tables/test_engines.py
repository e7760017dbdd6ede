"""engines: each kind's row names modules that are there and do what their callers ask of them."""

import importlib.util
import inspect
import tomllib
from importlib import import_module

import pytest
import yaml

from pipeline.core.schema import Engine
from pipeline.core.tables.engines import KINDS, EngineKind, install
from pipeline.engine import BuilderModule
from pipeline.runtime.open import RuntimeModule
from tests.support.repository import ROOT

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
OPTIONS = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "conf/engine").glob("*.yaml")]


def signature(owner: object, name: str) -> list[str]:
    """Types of a function's parameters, without `self`."""
    parameters = inspect.signature(getattr(owner, name)).parameters.values()
    return [str(parameter.annotation) for parameter in parameters if parameter.name != "self"]


def test_every_kind_has_a_row() -> None:
    """In the same order."""
    assert list(KINDS) == list(EngineKind)


@pytest.mark.parametrize("kind", EngineKind)
def test_its_modules_offer_what_is_called(kind: EngineKind) -> None:
    """The builder and the runtime have the functions of their protocols, with the same parameters."""
    row = KINDS[kind]
    assert signature(import_module(row.builder), "build") == signature(BuilderModule, "build")
    for name in ("open_engine", "why_unavailable"):
        assert signature(import_module(row.runtime), name) == signature(RuntimeModule, name)


@pytest.mark.parametrize("kind", EngineKind)
def test_its_keys_extra_and_option_are_there(kind: EngineKind) -> None:
    """Keys are those of the schema, all of them used in an option of conf/engine/ or left at their defaults."""
    row = KINDS[kind]
    assert set(row.config_keys) <= set(Engine.__annotations__)
    options = [option for option in OPTIONS if option["kind"] == kind.value]
    assert options
    assert all(set(option) - {"kind"} <= set(row.config_keys) for option in options)
    if row.extra is None:
        assert all(importlib.util.find_spec(name) for name in row.modules)
        assert "requirements.lock" in install(kind)
    else:
        assert row.extra in EXTRAS
        assert install(kind) == f"pip install -e '.[{row.extra}]'"
