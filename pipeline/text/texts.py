"""The texts that a point reads: the user's files, or the documentation that comes with Python.

A point folder holds a link to each file that is read, so that DVC hashes its content: another text, or another
Python with other documentation, is read anew.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import layout
from pipeline.core.errors import Problem, UserError
from pipeline.core.files import replacing

LETTERS = 64  # characters of a text that are read for each token wanted; English takes 3 to 5
DEFAULT = "pydoc_data.topics"  # what help() shows: 465,000 characters of English about Python in 3.11


@dataclass(frozen=True)
class Use:
    """What a text is for: its config key, and the name of the link in the point's folder."""

    key: str
    link: str


QUALITY = Use("verify.quality.text", layout.TEXT)
CALIBRATION = Use("quantize.calibration.text", layout.CALIBRATION)


def find(text: str | None, use: Use) -> Path:
    """The absolute path of the file. Raises UserError when it is missing, empty or no text."""
    if text is None:
        spec = importlib.util.find_spec(DEFAULT)
        if spec is None or spec.origin is None:
            raise UserError(Problem(f"this Python comes without {DEFAULT}", use.key, "give a text file of your own"))
        return Path(spec.origin)
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(Problem(f"there is no file {path}", use.key, "give the path of a text file, or null"))
    if not _decoded(path, use).strip():
        raise UserError(Problem(f"{path} is empty", use.key, "give a text file that holds text, or null"))
    return path.resolve()


def read(text: str | None, use: Use, folder: Path) -> str:
    """The whole text, by way of the link in a point's folder; Python's topics in the order of their names."""
    if text is not None:
        return _decoded(folder / use.link, use)
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def write_link(text: str | None, use: Use, folder: Path) -> None:
    """Make the link in a point's folder: what a stage reads and DVC hashes."""
    path = find(text, use)
    with replacing(folder / use.link) as link:
        link.symlink_to(path)


def _decoded(path: Path, use: Use) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = f"{path} is not UTF-8: {error.reason} at byte {error.start}"
        raise UserError(Problem(what, use.key, "save it as UTF-8")) from error
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror}"
        raise UserError(Problem(what, use.key, "check the file and its rights")) from error
