"""The licence of a model: from its card, its files or its GGUF metadata, else unknown."""

from pathlib import Path

import pytest

from pipeline.checkpoint import gguf_metadata
from pipeline.core.schema import Model, Source
from pipeline.packaging import licence
from pipeline.packaging.licence import UNKNOWN, Licence


@pytest.mark.parametrize(
    ("card", "file", "name"),
    [
        ("---\nlicense: Apache-2.0\n---\n# Model\n", None, "apache-2.0"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "LICENSE", "mit"),
        ("---\ntags: [x]\n---\n", "LICENSE", "other"),
        ("# license: mit\n", None, UNKNOWN),
        ("---\nlicense: [\n---\n", None, UNKNOWN),
        ("text\n---\nlicense: mit\n---\n", None, UNKNOWN),
        (None, None, UNKNOWN),
        (None, "LICENSE.txt", "other"),
    ],
)
def test_licence_of_a_folder(tmp_path: Path, card: str | None, file: str | None, name: str) -> None:
    """The card's front matter counts first, then a file; a damaged card states nothing."""
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    if file is not None:
        (tmp_path / file).write_text("terms")
    found = licence.find(Model(Source.local, path="x"), tmp_path)
    assert found.name == name
    assert [path.name for path in found.texts] == ([file] if file else [])


def test_a_licence_without_an_identifier_keeps_its_name_and_link(tmp_path: Path) -> None:
    """As the hub wants it for `other`."""
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org\n---\n")
    found = licence.find(Model(Source.local, path="x"), tmp_path)
    assert found.more == (("license_name", "own"), ("license_link", "https://x.org"))


@pytest.mark.parametrize(
    ("metadata", "name"),
    [({"general.license": "Apache-2.0"}, "apache-2.0"), ({}, UNKNOWN), ({"general.license": 3}, UNKNOWN)],
)
def test_licence_of_a_gguf_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict[str, object], name: str
) -> None:
    """general.license, whose type the file chooses."""
    header = type("Header", (), {"metadata": metadata})
    monkeypatch.setattr(gguf_metadata, "read", lambda path: header)
    assert licence.find(Model(Source.gguf, path="x"), tmp_path).name == name


def test_hub_files_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read through the hub's cache; a hub that cannot be reached leaves the licence unknown, and says so."""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    found = {"README.md": tmp_path / "README.md"}
    monkeypatch.setattr(licence, "hub_file", lambda model, name: found.get(name))
    model = Model(Source.hub, id="a/b")
    assert licence.find(model, tmp_path) == Licence("mit", "README.md of the checkpoint")

    def unreachable(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(licence, "hub_file", unreachable)
    assert licence.find(model, tmp_path).name == UNKNOWN


def test_random_weights_have_none(tmp_path: Path) -> None:
    """Nothing states one."""
    assert licence.find(Model(Source.random, architecture="llama"), tmp_path).name == UNKNOWN
