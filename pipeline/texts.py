"""The text that an engine's quality is measured on: the user's file, or the documentation that comes with Python.

A point folder's `text` is a link to the file that is read, so that DVC hashes its content: another text, or another
Python with other documentation, is measured anew.
"""

import importlib.util
from pathlib import Path

from pipeline.errors import Problem, UserError
from pipeline.files import replacing
from pipeline.layout import TEXT
from pipeline.spec import Quality

DEFAULT = "pydoc_data.topics"  # what help() shows: 465,000 characters of English about Python in 3.11
KEY = "verify.quality.text"


def find(quality: Quality) -> Path:
    """The absolute path of the file. Raises UserError when it is missing, empty or no text."""
    if quality.text is None:
        spec = importlib.util.find_spec(DEFAULT)
        if spec is None or spec.origin is None:
            raise UserError(Problem(f"this Python comes without {DEFAULT}", KEY, "give a text file of your own"))
        return Path(spec.origin)
    path = Path(quality.text).expanduser()
    if not path.is_file():
        raise UserError(Problem(f"there is no file {path}", KEY, "give the path of a text file, or null"))
    if not _decoded(path).strip():
        raise UserError(Problem(f"{path} is empty", KEY, "give a text file that holds text, or null"))
    return path.resolve()


def read(quality: Quality, folder: Path) -> str:
    """The whole text, by way of the link in a point's folder; Python's topics in the order of their names."""
    if quality.text is not None:
        return _decoded(folder / TEXT)
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def write_link(quality: Quality, folder: Path) -> None:
    """Make `folder`/text: what the verify stage reads and DVC hashes."""
    path = find(quality)
    with replacing(folder / TEXT) as link:
        link.symlink_to(path)


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is no UTF-8: {error.reason} at byte {error.start}"
        raise UserError(Problem(what, KEY, "save it as UTF-8")) from error
