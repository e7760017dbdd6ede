"""A program's file that could run code is refused before torch reads it."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import layout, pt2
from pipeline.errors import UserError
from pipeline.pt2_check import EXPRESSION, GRAPH, SYMBOL_NAME
from pipeline.signature import Signature

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
Records = dict[str, bytes]


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def bomb(trace: Path) -> bytes:
    """A pickle in torch's format."""
    buffer = io.BytesIO()
    torch.save(Bomb(trace), buffer)
    return buffer.getvalue()


def pickled_weight(records: Records, trace: Path) -> None:
    """torch.load(weights_only=False) would read it."""
    config = json.loads(records[WEIGHTS])
    next(iter(config["config"].values()))["use_pickle"] = True
    records[WEIGHTS] = json.dumps(config).encode()
    records["data/weights/weight_0"] = bomb(trace)


def opaque_constant(records: Records, trace: Path) -> None:
    """pickle.loads would read it."""
    config = json.loads(records[CONSTANTS])
    next(iter(config["config"].values()))["path_name"] = "opaque_obj_0"
    records[CONSTANTS] = json.dumps(config).encode()
    records["data/constants/opaque_obj_0"] = pickle.dumps(Bomb(trace))


def graph(old: str, new: str) -> Callable[[Records, Path], None]:
    """Replace text in the graph's description."""

    def change(records: Records, _: Path) -> None:
        text = records[GRAPH].decode()
        assert old in text
        records[GRAPH] = text.replace(old, new, 1).encode()

    return change


HOSTILE: dict[str, Callable[[Records, Path], object]] = {
    "a pickled weight": pickled_weight,
    "a constant as a pickle": opaque_constant,
    "weights of the old format": lambda records, trace: records.update({"data/weights/model.pt": bomb(trace)}),
    "sample inputs": lambda records, trace: records.update({"data/sample_inputs/model.pt": bomb(trace)}),
    "a compiled library": lambda records, _: records.update({"data/aotinductor/model/x.so": b"ELF"}),
    "a program of the old format": lambda records, trace: records.update({"serialized_state_dict.pt": bomb(trace)}),
    "a function of torch": graph("torch.ops.aten.linear.default", "torch.serialization.os.system"),
    "a library loaded by an operator": graph("torch.ops.aten.linear.default", "torch.ops.load_library"),
    "a function called by an operator": graph("torch.ops.aten.linear.default", "_operator.call"),
    "a name in escaped letters": graph("torch.ops.aten.linear.default", "\\u0074orch.hub.load"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_can_run_code_is_refused(tiny: tuple[Path, Signature], tmp_path: Path, name: str) -> None:
    """Each way that torch.export.load has; nothing of it is run."""
    records, trace, path = {}, tmp_path / "trace", tmp_path / layout.PROGRAM
    with zipfile.ZipFile(tiny[0] / layout.WRAPPED / layout.PROGRAM) as archive:
        for info in archive.infolist():
            root, _, record = info.filename.partition("/")
            records[record] = archive.read(info)
    HOSTILE[name](records, trace)
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in records.items():
            archive.writestr(f"{root}/{record}", data)
    with pytest.raises(UserError, match="which can run code") as error:
        pt2.load(path)
    assert error.value.problems[0].where == str(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        ("Mul(Integer(576), Symbol('s53', positive=True, integer=True))", True),
        ("Max(1, s27)", True),
        ("Add(Symbol('s0'), Integer(-1))", True),
        ("__import__('os').system('true')", False),
        ("exec(chr(49))", False),
        ("eval(Symbol('s0'))", False),
        ("().__class__", False),
        ("9" * 5000 + "x", False),
    ],
)
def test_expressions(expression: str, plain: bool) -> None:
    """Python evaluates them: sums, products and symbols only. No text takes exponential time."""
    assert bool(EXPRESSION.fullmatch(SYMBOL_NAME.sub("", expression))) == plain


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_cut_short(tiny: tuple[Path, Signature], tmp_path: Path, size: int) -> None:
    """An interrupted copy is a problem that names the file."""
    path = tmp_path / layout.PROGRAM
    path.write_bytes((tiny[0] / layout.WRAPPED / layout.PROGRAM).read_bytes()[:size])
    with pytest.raises(UserError, match="is not a program of torch"):
        pt2.load(path)
