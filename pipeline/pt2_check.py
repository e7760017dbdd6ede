"""Refuse an exported program whose file could run code of its own when it is loaded or run.

torch.export.load unpickles whatever a .pt2 file holds as a pickle, loads its compiled libraries, evaluates its symbolic
expressions in Python, and calls any function of torch by name. `pt2.save` writes none of these but plain expressions
and operators; a file that a remote brings may hold anything.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.errors import Problem, UserError

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
FIELDS = re.compile(rb'"(target|expr_str)"\s*:\s*"([^"]*)"')
OPERATOR = re.compile(
    r"torch\.ops\.(aten|kvforge|prims|higher_order)\.\w+(\.\w+)?|torch\.sym_\w+|math\.[a-z]+"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|getitem|eq|ne|lt|le|gt|ge|and_|or_|not_)"
)
SYMBOL_NAME = re.compile(r"'[a-z]+\d*'")
# possessive, as two ways to split a number would take exponential time
EXPRESSION = re.compile(r"([A-Z]\w*+\(|[a-z]++=(True|False)|True|False|[su]\d++|\d++|[\s,()+*/<>=-])*")


def check(path: Path) -> None:
    """Raise UserError when the file holds anything but a graph of operators and plain tensors."""
    try:
        archive = torch._C.PyTorchFileReader(str(path))
    except RuntimeError as error:
        what = f"{path} is not a program of torch.export: {str(error).splitlines()[0]}"
        raise UserError(Problem(what, str(path), "build it again: dvc repro --force, or fetch it again")) from error
    found = next(_suspects(archive), None)
    if found is not None:
        fix = "do not load it; build it again from the checkpoint"
        raise UserError(Problem(f"{path} holds {found}, which can run code", str(path), fix))


def _suspects(archive: "torch._C.PyTorchFileReader") -> Iterator[str]:
    records = archive.get_all_records()
    yield from (f"the record {name}" for name in records if not RECORD.fullmatch(name))
    if SAMPLES in records and archive.get_record_size(SAMPLES):
        yield f"the record {SAMPLES}"
    for name in CONFIGS.keys() & set(records):
        for tensor, payload in json.loads(archive.get_record(name))["config"].items():
            if payload["use_pickle"] or not CONFIGS[name].fullmatch(payload["path_name"]):
                yield f"{tensor} as a pickle"
    if GRAPH in records:
        text = archive.get_record(GRAPH)
        if b"\\u" in text:  # an escaped letter would hide a name below
            yield "escaped text in its graph"
        for field, value in {(field.decode(), value.decode()) for field, value in FIELDS.findall(text)}:
            if field == "target" and not OPERATOR.fullmatch(value):
                yield f"a call of {value}"
            if field == "expr_str" and not EXPRESSION.fullmatch(SYMBOL_NAME.sub("", value)):
                yield f"the expression {value}"
