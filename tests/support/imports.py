"""What the modules of pipeline/ import, read from their source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pipeline.core.tables.engines import KINDS

PIPELINE = Path(__file__).parents[2] / "pipeline"
MODULES = {  # such as "core.errors": dotted, below pipeline
    ".".join(path.relative_to(PIPELINE).with_suffix("").parts)
    for path in PIPELINE.rglob("*.py")
    if path.name != "__init__.py"
}
IMPORTS_BY_NAME = {"runtime.tensorrt_api"}  # modules that import others than ours by a name made at run time


def parsed(path: Path) -> ast.Module:
    """Return the parsed source of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(source: ast.Module) -> Iterator[str]:
    """Yield the dotted names of all that it imports, wherever the import stands."""
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_of_engines(module: str) -> Iterator[str]:
    """The modules that one imports by their names in pipeline.core.tables.engines: all builders, or all runtimes."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            (name,) = node.args
            if isinstance(name, ast.Attribute) and name.attr in ("builder", "runtime"):
                yield from (getattr(kind, name.attr) for kind in KINDS.values())
            else:
                assert module in IMPORTS_BY_NAME, f"{module} imports {ast.unparse(name)}, which no test can follow"


@cache
def tree(module: str) -> ast.Module:
    """Return the parsed source of a module of pipeline/."""
    return parsed(PIPELINE / f"{module.replace('.', '/')}.py")


def imports(module: str) -> Iterator[str]:
    """Yield the dotted names of all that a module of pipeline/ imports."""
    return imported(tree(module))


@cache
def own_imports(module: str) -> frozenset[str]:
    """The modules of pipeline/ that a module imports itself."""
    found = set()
    for dotted in [*imports(module), *modules_of_engines(module)]:
        name = dotted.removeprefix("pipeline.")
        if name != dotted:
            found |= {name, name.rpartition(".")[0]} & MODULES
    return frozenset(found)


def closure(module: str) -> set[str]:
    """The modules of pipeline/ that one imports, directly or not, and itself."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= own_imports(name) - found
    return found


def folder(module: str) -> str:
    """The folder of a module in dvc.yaml and the import rules, such as "backends/tensorrt"; "" for a command."""
    parts = module.split(".")[:-1]
    return "/".join(parts if parts[:1] == ["backends"] else parts[:1])
