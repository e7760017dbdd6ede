"""The wrapped program's file, in torch.export's own format, written and read without what costs most there."""

import typing
from pathlib import Path
from typing import Any

import torch
from torch._export.serde import serialize
from torch._export.serde.serialize import GraphModuleDeserializer

from pipeline import kv  # noqa: F401  # registers the operators that the file refers to
from pipeline.patch import remembering, replaced


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program and its weights.

    torch sorts and renames a copy of the finished description, as a check of its own, and drops it: 900,000 objects
    for SmolLM2-135M.
    """
    with replaced(serialize, canonicalize=lambda *_: None):
        torch.export.save(program, path)


def load(path: Path) -> torch.export.ExportedProgram:
    """Read what `save` wrote.

    torch evaluates a class' annotations again for each of its objects, and makes a tensor without data for each node
    anew, with its shape parsed from text; here once a class, and once for each kind of tensor, 36 of them.
    """
    kinds: dict[str, Any] = {}

    def tensor_of_kind(reader: Any, kind: Any) -> Any:
        name = f"{id(reader)} {kind}"
        if name not in kinds:
            kinds[name] = make(reader, kind)
        return kinds[name]

    make = GraphModuleDeserializer.deserialize_tensor_meta
    with (
        replaced(typing, get_type_hints=remembering(typing.get_type_hints)),
        replaced(GraphModuleDeserializer, deserialize_tensor_meta=tensor_of_kind),
    ):
        return torch.export.load(path)
