"""The layout of pipeline/: a file is a command, a folder is a library, and imports go in one direction."""

from collections import Counter

import pytest

from tests.support.imports import MODULES, PIPELINE, closure, folder, own_imports

COMMANDS = {name for name in MODULES if "." not in name}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "text": {"core"},
    "checkpoint": {"core", "text"},
    "config": {"core", "text", "checkpoint"},
    "model": {"core"},
    "graph": {"core", "model"},
    "quantization": {"core", "text", "graph"},
    "runtime": {"core", "model"},
    "backends/tensorrt": {"core", "graph", "runtime"},
    "backends/onnxruntime": {"core", "graph", "runtime", "backends/tensorrt"},  # ONNX Runtime has a TensorRT provider
    "proof": {"core", "text", "checkpoint", "model", "graph", "runtime", "backends/tensorrt"},
}
LARGEST = 14  # modules of a folder: more do not show an architecture


def test_every_folder_has_a_rule() -> None:
    """A new folder says what it may import."""
    assert {folder(name) for name in MODULES} - {""} == MAY_IMPORT.keys()


@pytest.mark.parametrize("module", sorted(MODULES - COMMANDS))
def test_imports_go_in_one_direction(module: str) -> None:
    """A library imports its own folder and those that MAY_IMPORT names, and never a command."""
    own = folder(module)
    wrong = {name for name in own_imports(module) if folder(name) != own and folder(name) not in MAY_IMPORT[own]}
    assert not wrong, f"pipeline/{own} may import {sorted(MAY_IMPORT[own])}; {module} imports {sorted(wrong)}"


def test_the_rules_have_no_circle() -> None:
    """Folders can be read in an order in which each uses only what came before."""
    for name, allowed in MAY_IMPORT.items():
        reached, waiting = set(), set(allowed)
        while waiting:
            one = waiting.pop()
            reached.add(one)
            waiting |= MAY_IMPORT[one] - reached
        assert name not in reached


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_module_imports_itself_in_a_circle(module: str) -> None:
    """Nor do modules of one folder go round in circles."""
    assert not any(module in closure(name) for name in own_imports(module))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_command_imports_a_command(command: str) -> None:
    """Files are the interface between stages, so that one stage's code does not rerun another."""
    assert not closure(command) & COMMANDS - {command}


def test_folders_stay_small() -> None:
    """A folder that grows beyond this is two folders."""
    modules = [path for path in PIPELINE.rglob("*.py") if path.name != "__init__.py"]
    counts = Counter(str(path.parent.relative_to(PIPELINE)) for path in modules)
    assert {name: count for name, count in counts.items() if count > LARGEST} == {}
