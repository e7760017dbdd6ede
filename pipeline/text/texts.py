"""The texts that a point reads: the user's files, or the documentation that comes with Python.

A point's folder holds a link to each file that is read, so that DVC hashes its content: with another text, or another
Python with other documentation, the stage runs again.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import atomic_path

CHARS_PER_TOKEN = 64  # characters that are read for each token wanted; English has 3 to 5
DEFAULT = "pydoc_data.topics"  # the topics that help() shows: 465,000 characters of English about Python in 3.11


@dataclass(frozen=True)
class TextRole:
    """What a text is used for: its config key, and the name of the link in the point's folder."""

    key: str
    link: str


QUALITY = TextRole("verify.quality.text", layout.TEXT)
CALIBRATION = TextRole("quantize.calibration.text", layout.CALIBRATION)


def find(text: str | None, role: TextRole) -> Path:
    """The absolute path of the file. Raises UserError when it is missing, empty or not text."""
    if text is None:
        spec = importlib.util.find_spec(DEFAULT)
        if spec is None or spec.origin is None:
            raise UserError(Problem(f"this Python has no {DEFAULT}", role.key, "give the path of a text file"))
        return Path(spec.origin)
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(Problem(f"there is no file {path}", role.key, "give the path of a text file, or null"))
    if not _decoded(path, role).strip():
        raise UserError(Problem(f"{path} is empty", role.key, "give a file that contains text, or null"))
    return path.resolve()


def read(text: str | None, role: TextRole, folder: Path) -> str:
    """The whole text, through the link in a point's folder; Python's topics in the order of their names."""
    if text is not None:
        return _decoded(folder / role.link, role)
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def write_link(text: str | None, role: TextRole, folder: Path) -> None:
    """Make the link in a point's folder, which a stage reads and DVC hashes."""
    path = find(text, role)
    with atomic_path(folder / role.link) as link:
        link.symlink_to(path)


def _decoded(path: Path, role: TextRole) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8: {error.reason} at byte {error.start}"
        raise UserError(Problem(what, role.key, "save it as UTF-8")) from error
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}"
        raise UserError(Problem(what, role.key, "check the file and its permissions")) from error
