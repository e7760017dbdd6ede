"""The layout of pipeline/ and tests/: a file is a command, a folder is a library, imports go in one direction, and
every module that decides something has its test file."""

from collections import Counter
from pathlib import Path

import pytest

from tests.support.imports import MODULES, PIPELINE, closure, folder, imported, own_imports, parsed

COMMANDS = {name for name in MODULES if "." not in name}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "text": {"core"},
    "packed": {"core"},
    "checkpoint": {"core", "text", "packed"},
    "config": {"core", "text", "checkpoint"},
    "model": {"core"},
    "sweeps": {"core", "config"},
    "planning": {"core", "checkpoint", "config", "model"},
    "wrapping": {"core", "checkpoint", "model"},
    "graph": {"core", "model"},
    "quantization": {"core", "text", "graph", "packed"},
    "runtime": {"core", "model"},
    "generation": {"core", "text", "runtime"},
    "packaging": {"core", "text", "checkpoint", "runtime"},
    "backends/tensorrt": {"core", "graph", "runtime"},
    # ONNX Runtime has a TensorRT provider
    "backends/onnxruntime": {"core", "text", "graph", "runtime", "backends/tensorrt"},
    "reporting": {"core", "planning"},
    "proof": {"core", "text", "checkpoint", "model", "graph", "runtime", "backends/tensorrt"},
}
LARGEST = 14  # modules of a folder: more do not show an architecture
LARGER = {".": 17}  # one file for each command that users run
TESTS = Path(__file__).parent
WITHOUT_TEST_FILE = {  # module -> why it has none
    "core.arrays": "two type aliases",
    "reporting.records": "dataclasses; the tests of what makes them",
}


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
    counts = Counter(str(path.parent.relative_to(PIPELINE)) for path in PIPELINE.rglob("*.py"))
    assert {name: count for name, count in counts.items() if count > LARGER.get(name, LARGEST)} == {}


def file_of(module: str) -> Path:
    """Return where a module's tests belong: core/test_errors.py for `core.errors`, test_main.py for `__main__`."""
    *folders, name = module.split(".")
    return TESTS.joinpath(*folders, f"test_{name.strip('_')}.py")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_has_its_test_file(module: str) -> None:
    """At the mirrored path, or in WITHOUT_TEST_FILE with the reason; not both."""
    path = file_of(module)
    assert path.exists() != (module in WITHOUT_TEST_FILE), f"{module}: {path.relative_to(TESTS.parent)}"


def test_exceptions_are_modules() -> None:
    """A module that is gone leaves WITHOUT_TEST_FILE."""
    assert WITHOUT_TEST_FILE.keys() <= MODULES


def test_no_test_module_imports_another() -> None:
    """What several of them use is in tests/support/ or a fixture of conftest.py: each file can be read, moved and run
    by itself."""
    for path in TESTS.rglob("*.py"):
        names = {part for name in imported(parsed(path)) if name.startswith("tests.") for part in name.split(".")}
        assert not {part for part in names if part.startswith("test_")}, path
