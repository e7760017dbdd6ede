"""The licence of a model, as its checkpoint states it."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.checkpoint import gguf_metadata
from pipeline.checkpoint.origin import hub_file
from pipeline.core.schema import Model, Source

UNKNOWN = "unknown"  # the hub's own word
CARD = "README.md"
TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?\n)---\s*$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Licence:
    """name: the hub's identifier, such as apache-2.0; "other" for a text without one. source: where it is stated.
    texts: its files. more: license_name and license_link, of a licence that the hub has no identifier for."""

    name: str
    source: str
    texts: tuple[Path, ...] = ()
    more: tuple[tuple[str, str], ...] = ()


def find(model: Model, link: Path) -> Licence:
    """The licence of a point's model; `link`: the point's checkpoint. Name UNKNOWN where nothing states one."""
    if model.source is Source.random:
        return Licence(UNKNOWN, "the weights are random: no checkpoint states a licence")
    if model.source is Source.gguf:
        return _of_metadata(gguf_metadata.read(link.resolve()).metadata)
    with suppress(OSError):  # the hub cannot be reached
        texts = tuple(_files(model, link, TEXTS))
        card = next(_files(model, link, (CARD,)), None)
        stated = front_matter(card) if card else {}
        name = stated.get("license")
        name = name[0] if isinstance(name, list) and name else name
        if isinstance(name, str) and name:
            more = tuple((key, str(stated[key])) for key in ("license_name", "license_link") if key in stated)
            return Licence(name.lower(), f"{CARD} of the checkpoint", texts, more)
        if texts:
            return Licence("other", f"the file {texts[0].name} of the checkpoint", texts)
    return Licence(UNKNOWN, "the checkpoint states no licence")


def _of_metadata(metadata: dict[str, Any]) -> Licence:
    name = metadata.get("general.license")
    if not isinstance(name, str) or not name:
        return Licence(UNKNOWN, "the GGUF file has no general.license")
    keys = {"general.license.name": "license_name", "general.license.link": "license_link"}
    more = tuple((own, str(metadata[key])) for key, own in keys.items() if key in metadata)
    return Licence(name.lower(), "general.license of the GGUF file", (), more)


def _files(model: Model, link: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Those of the files that the checkpoint has."""
    for name in names:
        path = hub_file(model, name) if model.source is Source.hub else link.resolve() / name
        if path is not None and path.is_file():
            yield path


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML at the top of a model card; empty where there is none, or none that can be read."""
    try:
        block = FRONT_MATTER.search(card.read_text(encoding="utf-8"))
        found = yaml.safe_load(block[1]) if block else {}
    except (UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
