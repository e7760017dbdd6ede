"""Hook of mkdocs: add pages that lie outside docs/, and turn links that work on GitHub into links of the site.

A link in a file is relative to where the file lies in the repository. README.md is the site's front page. The names of
CONTRIBUTING.md and SECURITY.md, which GitHub wants in the root, differ from pages of docs/ only in case, so the site
renames them.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "rules.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE",
    "notebooks/kaggle.ipynb": "notebooks/kaggle.ipynb",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")  # the path of a relative link
WIDE = re.compile(r"^\|([^|\n]*\|){8}", re.MULTILINE)  # a row of eight columns or more


def outside() -> dict[str, str]:
    """The files outside docs/ that are part of the site: path in the repository -> path in the site."""
    found = [path for suffix in ("md", "png") for path in (ROOT / "benchmarks").glob(f"*.{suffix}")]
    return PAGES | {path: path for path in (path.relative_to(ROOT).as_posix() for path in found)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/."""
    for path, uri in outside().items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links into links of the site; give the front page and pages with wide tables the menu's width."""
    places, own = outside(), page.file.src_uri
    if page.is_homepage or WIDE.search(markdown):
        page.meta["hide"] = ["navigation"]
    origin = {uri: path for path, uri in places.items()}.get(own, f"docs/{own}")

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[1]))
        uri = places.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(uri, posixpath.dirname(own) or ".")

    return LINK.sub(moved, markdown)
