"""Refuse an exported program whose file could run code of its own when it is loaded or run.

torch.export.load unpickles whatever a .pt2 file holds as a pickle, loads its compiled libraries, evaluates its symbolic
expressions in Python, writes its names into Python source that it compiles, and calls any function of torch by name.
torch.export.save writes only plain names, sums and products of symbols, and operators; a file that comes from a remote
may hold anything. So each text of the graph must be of a kind that torch.export.save writes.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import Problem, UserError, first_line

RECORD = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights/model_weights|constants/model_constants)_config\.json"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)"
)
SAMPLES = "data/sample_inputs/model.pt"
CONFIGS = {
    "data/weights/model_weights_config.json": re.compile(r"weight_\d+"),
    "data/constants/model_constants_config.json": re.compile(r"tensor_\d+"),
}
GRAPH = "models/model.json"

# from_file and save can write any file
OPERATOR = re.compile(r"torch\.ops\.(aten|kvforge|prims)\.(?!from_file\b|save\b)\w+\.\w+", re.ASCII)
FUNCTION = re.compile(
    r"torch\.sym_\w+|math\.[a-z]+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
NAME = re.compile(r"\w*", re.ASCII)  # becomes an identifier in Python source
PLAIN = re.compile(r"[\w.,:;<>@\[\] +-]*", re.ASCII)  # without parentheses nothing is called
NAMES = {"name", "as_name", "forward_arg_names"}
SYMBOL_NAME = re.compile(r"(?<=\bSymbol\()'[a-z]+\d*'")
# Listed, as sympy has others that evaluate text: S('chr'). Possessive, as two ways to split a number would take
# exponential time.
EXPRESSION = re.compile(
    r"((Add|And|CeilDiv|CeilToInt|CleanDiv|Eq|Equality|FloatPow|FloatTrueDiv|FloorDiv|FloorToInt|Ge|GreaterThan|Gt"
    r"|Identity|IntTrueDiv|Integer|Le|LessThan|Lt|Max|Min|Mod|ModularIndexing|Mul|Ne|Not|Or|Pow|PowByNatural|PythonMod"
    r"|Rational|RoundToInt|StrictGreaterThan|StrictLessThan|Symbol|ToFloat|TruncToFloat|TruncToInt|Unequality|Where)\("
    r"|[a-z]++=(True|False)|True|False|[su]\d++|\d++|[\s,()+*/<>=-])*"
)
GUARD = re.compile(
    r"(L\['\w++'\](\[\d++\])*+\.(size|stride)\(\)\[\d++\]"
    r"|(Eq|Ne|Mod|Max|Min|max|min)\(|\b(and|or|not)\b|\d++|[ ,()+*/%<>=!-])*",
    re.ASCII,
)
TREES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}
# Values that hold a function, an object or another graph.
HOLDERS = {"as_operator", "as_custom_obj", "as_graph", "custom_obj"}


def check(path: Path) -> None:
    """Raise UserError when the file holds anything but a graph of operators and plain tensors."""
    try:
        found = next(_suspects(torch._C.PyTorchFileReader(str(path))), None)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_line(error) if isinstance(error, RuntimeError) else "its description is damaged"
        what = f"{path} is not a program of torch.export: {reason}"
        raise UserError(Problem(what, str(path), "build it again: dvc repro --force, or fetch it again")) from error
    if found is not None:
        fix = "do not load it; build it again from the checkpoint"
        raise UserError(Problem(f"{path} holds {found}, which can run code", str(path), fix))


def _suspects(archive: "torch._C.PyTorchFileReader") -> Iterator[str]:
    """What could run code, each in a few words. Raises one of the errors above for records that cannot be read."""
    records = set(archive.get_all_records())
    yield from (f"the record {name}" for name in sorted(records) if not RECORD.fullmatch(name))
    if SAMPLES in records and archive.get_record_size(SAMPLES):
        yield f"the record {SAMPLES}"
    for name, pattern in CONFIGS.items():
        config = _json(archive, name)["config"]
        for tensor, payload in config.items():
            if payload["use_pickle"] or not pattern.fullmatch(payload["path_name"]):
                yield f"{tensor} as a pickle"
            if f"{Path(name).parent}/{payload['path_name']}" not in records:
                raise ValueError(f"{tensor} has no record")
        yield from _unlike(config)
    program = _json(archive, GRAPH)
    for call in program["graph_module"]["module_call_graph"]:
        for arguments in ("in_spec", "out_spec") if call["signature"] else ():
            yield from _tree(json.loads(call["signature"].pop(arguments))[1])
    yield from _unlike(program)


def _json(archive: "torch._C.PyTorchFileReader", record: str) -> Any:
    """A record, parsed as torch does it: in another encoding it would read as other text."""
    return json.loads(archive.get_record(record).decode("utf-8"))


def _unlike(description: Any) -> Iterator[str]:
    """Texts that torch.export.save does not write."""
    for key, text in sorted(_texts(description)):
        if key == "target":
            if not _is_function(text):
                yield f"a call of {text}"
        elif key == "expr_str":
            if not EXPRESSION.fullmatch(SYMBOL_NAME.sub("", text)):
                yield f"the expression {text}"
        elif key == "guards_code":
            if not GUARD.fullmatch(text):
                yield f"the guard {text}"
        elif key in HOLDERS:
            yield f"a value of kind {key}"
        elif not (NAME if key in NAMES else PLAIN).fullmatch(text):
            yield f"the text {text!r}"


def _texts(description: Any) -> set[tuple[str, str]]:
    """Each text with the key that it stands under, in a list or not. A key is itself a text, under no key."""
    found: set[tuple[str, str]] = set()
    left = [("", description)]
    while left:
        key, value = left.pop()
        if isinstance(value, str):
            found.add((key, value))
        elif isinstance(value, dict):
            for inner, part in value.items():
                if inner in HOLDERS:
                    found.add((inner, ""))
                if isinstance(part, str | dict | list):
                    left.append((inner, part))
            found.update(("", inner) for inner in value)
        elif isinstance(value, list):
            left.extend((key, part) for part in value if isinstance(part, str | dict | list))
    return found


def _is_function(target: str) -> bool:
    """Whether it is an operator of torch, ours, or arithmetic on sizes."""
    if not OPERATOR.fullmatch(target):
        return FUNCTION.fullmatch(target) is not None
    _, _, space, operator, overload = target.split(".")
    # by its class, as a namespace has Python's own attributes too
    return isinstance(
        getattr(getattr(getattr(torch.ops, space), operator, None), overload, None), torch._ops.OpOverload
    )


def _tree(tree: Any) -> Iterator[str]:
    """What a description of arguments holds apart from tuples, lists, and dicts with names."""
    if tree["type"] not in TREES:
        yield f"arguments of type {tree['type']}"
    names = json.loads(tree["context"]) if tree["context"] else None
    if names is not None and not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
        yield f"arguments named {tree['context']}"
    for part in tree["children_spec"]:
        yield from _tree(part)
