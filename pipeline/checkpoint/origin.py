"""Where a checkpoint is, for the functions of transformers and for messages.

`link` is the point's `checkpoint`: a link to a folder or a GGUF file, not used for random weights and the hub.
"""

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from pipeline.checkpoint import files
from pipeline.core.schema import Model, Source


def pretrained_arguments(model: Model, link: Path) -> tuple[str, dict[str, Any]]:
    """Return the first argument and the options of from_pretrained; an empty name for random weights."""
    trust = {"trust_remote_code": model.trust_remote_code}
    if model.source is Source.hub:
        return str(model.id), {"revision": model.revision, **trust}
    if model.source is Source.random:
        return "", {}
    return str(link.resolve()), trust


def origin_of(model: Model, link: Path) -> str:
    """Name the checkpoint's folder, file or repository, where a problem of it is."""
    if model.source is Source.hub:
        return f"{model.id}@{model.revision}"
    return str(link.resolve())


def config_file(model: Model, link: Path) -> str:
    """Name the file or config key where a problem of the configuration is."""
    if model.source is Source.random:
        return "model.config"
    origin = origin_of(model, link)
    return str(Path(origin, files.CONFIG)) if model.source is Source.local else origin


def display_name(model: Model) -> str:
    """Name the model as the user did."""
    return str(model.id or model.path or model.architecture)


def hub_file(model: Model, name: str) -> Path | None:
    """Fetch a file of a repository of the hub; None where it has none of that name."""
    found = cached_file(str(model.id), name, revision=model.revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
