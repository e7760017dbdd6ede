"""README.md and docs/: what they name exists, what they show parses, and the site builds without a warning.

Links and anchors are checked as GitHub reads them, and by mkdocs as the site has them.
"""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*FRONT, *DOCS, *sorted((ROOT / "benchmarks").glob("*.md"))]
GROUPS = sorted(path.name for path in (ROOT / "conf").iterdir() if path.is_dir())
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = {"json", "yaml", "md", "py", "onnx", "data", "pt2", "plan"}  # the last part of a name with dots that is a file

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def blocks(page: Path, *kinds: str) -> list[str]:
    """The fenced blocks of these kinds."""
    return [body for kind, body in FENCE.findall(page.read_text(encoding="utf-8")) if kind in kinds]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in a page's prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def commands(page: Path) -> list[str]:
    """The command lines of a page: those behind a $ and those between backticks."""
    shown = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    return shown + [code for code in inline_code(page) if re.match(r"(make|python|pip|dvc) ", code)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@cache
def keys() -> set[str]:
    """Every key of a composed configuration, sections included."""
    shown = [sys.executable, "-m", "pipeline", "--cfg", "job"]
    done = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True)

    def nested(values: dict[str, Any], prefix: str = "") -> set[str]:
        found = {f"{prefix}{key}" for key in values}
        return found.union(*(nested(v, f"{prefix}{k}.") for k, v in values.items() if isinstance(v, dict)))

    return nested(yaml.safe_load(done.stdout))


@page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the repository, and every anchor one of its headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


@page
def test_paths_exist(page: Path) -> None:
    """Every path of the repository that a page names exists."""
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w./-])(?:pipeline|tests|conf|docs|benchmarks)/[\w./-]*[\w/]", text))
    assert not [path for path in sorted(named) if not ((ROOT / path).exists() or (page.parent / path).exists())]


@page
def test_commands_exist(page: Path) -> None:
    """Every target of make and every module that is run exists."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands(page):
        if called := re.match(r"make (?:\w+=\S+ )*([a-z][\w-]*)", command):
            assert called[1] in targets, command
        if called := re.match(r"python -m ((?:pipeline|benchmarks)[\w.]*)", command):
            assert importlib.util.find_spec(called[1]), command


@page
def test_options_exist(page: Path) -> None:
    """Every option of a config group that a page names is a file in conf/."""
    shown = " ".join([*commands(page), *inline_code(page)])
    for group, options in re.findall(rf"(?<![\w.\[-])({'|'.join(GROUPS)})=([a-z][\w,]*)", shown):
        for option in options.split(","):
            assert (ROOT / "conf" / group / f"{option}.yaml").exists(), f"{group}={option}"


@page
def test_keys_exist(page: Path) -> None:
    """Every configuration key that a page names exists; `section.*` stands for all in a section."""
    sections = {key.partition(".")[0] for key in keys()}
    for code in inline_code(page):
        if not (named := re.match(r"([a-z_]+(?:\.[a-z_][a-z_0-9]*)+)(\.\*)?(?=$|=)", code)):
            continue
        key = named[1]
        section, last = key.partition(".")[0], key.rpartition(".")[2]
        if section in sections and last not in FILES:
            assert key in keys(), code


@page
def test_examples_parse(page: Path) -> None:
    """Blocks in Python, shell and YAML parse, and what Python imports from the project is there."""
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pipeline"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
    for command in [*commands(page), *blocks(page, "bash", "sh")]:
        done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)


def test_front_page_is_short() -> None:
    """README.md fits two screens or so."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def nav(entries: list[Any]) -> list[str]:
    """The pages of mkdocs' navigation, in order."""
    found: list[str] = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found += nav(value) if isinstance(value, list) else [value]
    return found


def test_every_page_is_in_the_navigation() -> None:
    """Pages of docs/ and benchmarks/, and what docs/site_hook.py takes from the root: each once."""
    listed = nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in DOCS]
    pages += [path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("*.md")]
    assert sorted(listed) == sorted([*pages, "index.md", "rules.md", "reporting.md", "CHANGELOG.md"])


def test_the_table_of_imports_is_the_rule() -> None:
    """docs/contributing.md says of each folder what it may import, as tests/test_layout.py has it."""
    rows = re.findall(r"^\| `pipeline/([\w/]+)/` \|[^|]*\| ?([^|]*?) ?\|$", prose(ROOT / "docs/contributing.md"), re.M)
    layout = ast.parse((ROOT / "tests/test_layout.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(node.target): node.value for node in layout.body if isinstance(node, ast.AnnAssign)}
    rule = ast.literal_eval(assigned["MAY_IMPORT"] or "")
    assert {folder: set(filter(None, named.split(", "))) for folder, named in rows} == rule


def test_no_page_names_a_package_that_is_not_there() -> None:
    """kvforge is on no index: nothing in the repository says to install it from one."""
    found = subprocess.run(
        ["git", "grep", "-nE", r"pip install [\"']?kvforge", "--", ".", ":!tests/test_docs.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 1, found.stdout + found.stderr


def test_site_builds(tmp_path: Path) -> None:
    """mkdocs finds nothing to warn of, and no page of the site loads anything from another host."""
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list((tmp_path / "site").rglob("*.html"))
    assert len(built) >= len(DOCS)
    loads = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b(?=[^>]*stylesheet)[^>]*//")
    for html in built:
        assert not loads.search(html.read_text(encoding="utf-8")), html.name
