"""pyproject.toml: the extras that pages and messages name exist, and no wheel holds a module called pipeline."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_extras_that_are_named_exist() -> None:
    """Messages, pages and tests name extras that pyproject.toml has."""
    shown = ["git", "grep", "-hoE", r"\.\[[a-z0-9,-]+\]['\"]", "--", "*.md", "*.py", "Makefile"]
    found = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {extra for text in re.findall(r"\[(.+)\]", found) for extra in text.split(",")}
    assert {"tensorrt-rtx", "joblib"} <= named <= set(PROJECT["optional-dependencies"])


def test_a_wheel_holds_no_code(tmp_path: Path) -> None:
    """The name `pipeline` is too general to be installed; kvforge runs in its repository."""
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is not installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", build], cwd=tmp_path, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names} == {f"kvforge-{PROJECT['version']}.dist-info"}
