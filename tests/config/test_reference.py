"""reference: the page of all keys, and the list in --help; conf/ does not repeat them."""

from dataclasses import is_dataclass
from pathlib import Path

import pytest

from pipeline.config import reference
from pipeline.config.keys import KEYS
from tests.support.mistakes import CONF
from tests.support.repository import ROOT

FILES = sorted(CONF.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_the_page_is_up_to_date() -> None:
    """What is committed is what would be written today."""
    assert reference.FILE.read_text(encoding="utf-8") == reference.markdown(), "run make docs/configuration.md"


def test_the_page_has_every_key() -> None:
    """Each once, below its section, with its meaning, what it accepts and its default."""
    named, section = [], ""
    page = reference.markdown()
    for line in page.splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if line.startswith("| `"):
            own = line.split("`")[1]
            named.append(own if own == section else f"{section}.{own}")
            assert line.count("|") == 5
    assert named == [name for name, key in KEYS.items() if not is_dataclass(key.type)]
    assert "have together. | whole number, 1 or more | `1024` |" in page
    assert "in nats. | number, 0 or more | `1e-07` |" in page
    assert "not quantized. | `fp32`, `fp16`, `bf16` | `fp32` |" in page
    assert "no limit. Only with `tensorrt` and `tensorrt_rtx`. | number, above 0, or null | `null` |" in page


def test_help_lists_every_key() -> None:
    """A line or more each, of at most the width that was asked for, below the sections."""
    lines = "\n".join(reference.listing(100)).splitlines()
    listed = {line.split()[0].rstrip(":") for line in lines if line.strip()}
    assert {name for name, key in KEYS.items() if not is_dataclass(key.type)} <= listed
    assert max(len(line) for line in lines if line.startswith("    ")) <= 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_conf_does_not_repeat_what_a_key_means(file: Path) -> None:
    """A file says at its top what it is; comments below say why its values are what they are."""
    comments = [line.partition("#")[2].strip() for line in file.read_text(encoding="utf-8").splitlines() if "#" in line]
    assert comments[comments[0].startswith("@package")]
    first = {key.meaning.split(". ")[0].rstrip(".") for key in KEYS.values() if len(key.meaning) > 30}
    assert not [comment for comment in comments if any(meaning in comment for meaning in first)]
