"""stages: the table fits together; tests/test_dvc_yaml.py compares it with dvc.yaml."""

import pytest

from pipeline.core.tables import stages
from pipeline.core.tables.stages import NAMES, STAGES
from tests.support.imports import MODULES


def test_inputs_are_written_before_they_are_read() -> None:
    """By one stage each; conf/ is the user's."""
    written = {"conf"}
    for stage in STAGES:
        assert set(stage.inputs) <= written, stage.name
        assert written.isdisjoint(stage.outputs), stage.name
        written |= set(stage.outputs)


def test_a_stage_is_a_command() -> None:
    """Other commands are the front door, points, plan, generate, package, report and doctor."""
    others = {name for name in MODULES if "." not in name} - set(NAMES)
    assert others == {"__main__", "points", "plan", "generate", "package", "report", "doctor"}


def test_the_last_stages() -> None:
    """What the front door asks DVC for; everything else is an input of one of them."""
    assert {"verify", "bench"} <= set(stages.last())
    assert set(stages.last()).isdisjoint(["toolchain", "compose", "wrap", "export", "simplify", "quantize", "engine"])


@pytest.mark.parametrize(
    ("name", "follow", "others"),
    [
        ("engine", ["engine", "verify", "bench"], ["compose", "wrap", "export", "simplify", "quantize"]),
        ("simplify", ["simplify", "quantize", "engine", "verify", "bench"], ["compose", "wrap", "export"]),
        ("compose", ["compose", "wrap", "export", "simplify", "quantize", "engine", "verify", "bench"], ["toolchain"]),
        ("bench", ["bench"], ["engine", "verify"]),
    ],
)
def test_what_follows_from_a_stage(name: str, follow: list[str], others: list[str]) -> None:
    """In the order in which stages run."""
    found = stages.downstream(name)
    assert [stage for stage in found if stage in follow] == follow
    assert not set(others) & set(found)
