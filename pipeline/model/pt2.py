"""The wrapped program's file, in torch.export's own format, written and read without what costs most there."""

import typing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._export.serde import serialize
from torch._export.serde.serialize import GraphModuleDeserializer
from torch.export.pt2_archive import _package

from pipeline.core.patching import remembering, replaced
from pipeline.model import operators, pt2_check  # noqa: F401  # registers the operators that the file refers to


def save(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write the program and its weights.

    torch sorts and renames a copy of the finished description, as a check of its own, and drops it: 900,000 objects
    for SmolLM2-135M. And it copies each weight twice before it writes it: 0.2 GB for that model's embedding.
    """
    with (
        replaced(serialize, canonicalize=lambda *_: None),
        replaced(_package, _get_raw_tensor_bytes=lambda tensor: tensor.untyped_storage()),
        replaced(_package.PT2ArchiveWriter, write_bytes=_write_record),
    ):
        torch.export.save(program, path)


def _write_record(writer: Any, name: str, data: Any) -> None:
    writer.archive_file.write_record(name, data, len(data))


def load(path: Path) -> torch.export.ExportedProgram:
    """Read what `save` wrote; weights stay on disk, memory-mapped, and changes to them go nowhere. Raises UserError for
    a file that is not of that kind: it could run code.

    torch evaluates a class' annotations again for each of its objects, and makes a tensor without data for each node
    anew, with its shape parsed from text; here once a class, and once for each kind of tensor, 36 of them.
    """
    pt2_check.check(path)
    kinds: dict[str, Any] = {}

    def tensor_of_kind(reader: Any, kind: Any) -> Any:
        name = f"{id(reader)} {kind}"
        if name not in kinds:
            kinds[name] = make(reader, kind)
        return kinds[name]

    def mapped(reader: Any, record: str, *_: Any) -> torch.Tensor:
        where, size = reader.get_record_offset(record), reader.get_record_size(record)
        return torch.from_numpy(np.memmap(path, np.uint8, "c", where, (size,)))

    make = GraphModuleDeserializer.deserialize_tensor_meta
    with (
        replaced(typing, get_type_hints=remembering(typing.get_type_hints)),
        replaced(GraphModuleDeserializer, deserialize_tensor_meta=tensor_of_kind),
        replaced(torch._C.PyTorchFileReader, get_storage_from_record=mapped),
    ):
        return torch.export.load(path)
