"""What transformers says of a type of model, read from its source: importing it takes seconds, reading 0.1 s.

What cannot be read, as another release may write it otherwise, is not known here: pipeline.checkpoint.loading, which
imports transformers, finds the rest.
"""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

CONFIGURATIONS, MODULES = "CONFIG_MAPPING_NAMES", "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"
CAUSAL, MULTIMODAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"
TABLES = ("auto_mappings", "configuration_auto", "modeling_auto")  # modules of models/auto, in the order of imports


@cache
def tables() -> Mapping[str, Mapping[str, str]]:
    """Return the tables of models/auto by name: type of a model -> name of a class, or of a module."""
    found: dict[str, dict[str, str]] = {}
    for name in TABLES:
        for node in _body(_models() / "auto" / f"{name}.py"):
            match node:
                case ast.Assign(targets=[ast.Name(id=table)]):
                    found[table] = dict(_pairs(node.value, found))
                case ast.Expr(
                    value=ast.Call(func=ast.Attribute(value=ast.Name(id=table), attr="update"), args=[given])
                ):
                    found.setdefault(table, {}).update(_pairs(given, found))
    return found


def _pairs(node: ast.expr, known: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """The pairs of names that an expression lists, with those of the tables that it takes in."""
    match node:
        case ast.Tuple(elts=[ast.Constant(value=str(key)), ast.Constant(value=str(value))]):
            yield key, value
        case ast.Name(id=name):
            yield from known.get(name, {}).items()
        case ast.Dict():
            for key_node, item in zip(node.keys, node.values, strict=True):
                if key_node is not None:
                    yield from _pairs(ast.Tuple([key_node, item]), known)
        case ast.List():
            for item in node.elts:
                yield from _pairs(item, known)
        case ast.Starred() | ast.Attribute():
            yield from _pairs(node.value, known)
        case ast.Call():  # OrderedDict([...]), OrderedDict(**{...}, **NAMES), list(NAMES.items())
            for item in (node.func, *node.args, *(keyword.value for keyword in node.keywords)):
                yield from _pairs(item, known)


@cache
def model_class(kind: str) -> str | None:
    """Return the name of the class that builds a type of model as a causal LM, or with what it has for images or sound;
    None where the tables name none."""
    return tables().get(CAUSAL, {}).get(kind) or tables().get(MULTIMODAL, {}).get(kind)


@cache
def class_of(kind: str) -> ast.ClassDef | None:
    """Return the source of that class; None where it is not found."""
    name, folder = model_class(kind), tables().get(MODULES, {}).get(kind, kind.replace("-", "_"))
    for path in sorted((_models() / folder).glob("modeling_*.py")):
        for node in _body(path):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
    return None


def method(of: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """Return a method that a class defines itself; None where it inherits it."""
    return next((node for node in of.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def parameters(function: ast.FunctionDef) -> dict[str, bool]:
    """The parameters of a method -> whether it needs them; without self, *args and **kwargs."""
    given = function.args
    positional = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    needed = len(positional) - len(given.defaults)
    found = {name: number < needed for number, name in enumerate(positional)}
    named = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return {name: need for name, need in found.items() if name != "self"} | {a.arg: d is None for a, d in named}


def _models() -> Path:
    """The folder transformers/models; one that does not exist where transformers is not installed as a folder."""
    spec = importlib.util.find_spec("transformers")  # finds without importing
    places = spec.submodule_search_locations if spec else None
    return Path(*(places or [""])[:1], "models")


def _body(path: Path) -> list[ast.stmt]:
    """The statements of a file; none where there is none, or where this Python cannot read it."""
    try:
        return ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError):
        return []
