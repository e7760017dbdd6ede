"""A program's file that could run code is refused before torch reads it."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import wrap
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.model import pt2
from pipeline.model.pt2_check import EXPRESSION, GRAPH, GUARD, SYMBOL_NAME, check
from tests.support.architectures import random_model
from tests.support.points import build_once

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


def edited(edit: Callable[[Any], object]) -> Callable[[Records, Path], None]:
    """Change the parsed description of the program."""

    def change(records: Records, _: Path) -> None:
        program = json.loads(records[GRAPH])
        edit(program)
        records[GRAPH] = json.dumps(program).encode()

    return change


def placeholder(records: Records, trace: Path) -> None:
    """torch writes the names of inputs into the source of the forward that it compiles."""
    code = f"x=__import__('pathlib').Path('{trace}').touch()"
    records[GRAPH] = records[GRAPH].replace(b'"input_ids"', json.dumps(code).encode())


def call(target: str, *inputs: dict[str, Any]) -> Callable[[Records, Path], None]:
    """Another first node in the graph."""
    node = {"target": target, "inputs": inputs, "outputs": [{"as_none": True}], "metadata": {}}
    return edited(lambda program: program["graph_module"]["graph"]["nodes"].insert(0, node))


def argument(kind: str, value: object, name: str = "") -> dict[str, Any]:
    """One argument of a node."""
    return {"name": name, "arg": {kind: value}, "kind": 2 if name else 1}


def contract(change: Callable[[str], str]) -> Callable[[Records, Path], None]:
    """Change the description of the arguments."""

    def edit(program: Any) -> None:
        entry = program["graph_module"]["module_call_graph"][0]["signature"]
        entry["in_spec"], before = change(entry["in_spec"]), entry["in_spec"]
        assert entry["in_spec"] != before

    return edited(edit)


EXIT = "__import__('os')._exit(7)"
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
    "an input whose name is code": placeholder,
    "an argument whose name is code": call("_operator.add", argument("as_int", 1, f"a={EXIT} or 1, b")),
    "a function that takes functions": call("torch.ops.higher_order.wrap", argument("as_string", "x")),
    "a function as an argument": call(
        "torch.ops.aten.sin.default",
        argument("as_operator", "torch.serialization.os.system"),
        argument("as_string", ""),
    ),
    "an object as an argument": call("torch.ops.aten.sin.default", argument("as_custom_obj", {"name": "x"})),
    "a graph as an argument": call("torch.ops.aten.sin.default", argument("as_graph", {"name": "x", "graph": {}})),
    "an operator that opens a file": call("torch.ops.aten.from_file.default", argument("as_string", "trace")),
    "an operator that writes a file": call("torch.ops.aten.save.default", argument("as_string", "trace")),
    "an attribute of an operator": call("torch.ops.aten.sin.__class__", argument("as_string", "x")),
    "a guard that is code": edited(lambda program: program["guards_code"].append(EXIT)),
    "text evaluated by an expression": graph("Symbol('s", "S('chr')(95), Symbol('s"),
    "an argument's type that imports a module": contract(lambda s: s.replace("builtins.list", "enum.Enum")),
    "an argument's key that is code": contract(lambda s: s.replace('"[]"', json.dumps(json.dumps([EXIT])))),
    "a name in escaped letters": graph("torch.ops.aten.linear.default", "\\u0074orch.hub.load"),
}


def records_of(path: Path) -> Records:
    """What a program's file holds."""
    with zipfile.ZipFile(path) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def write(path: Path, records: Records) -> Path:
    """A program's file with these records."""
    with zipfile.ZipFile(path, "w") as archive:
        for record, data in records.items():
            archive.writestr(f"model/{record}", data)
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_what_can_run_code_is_refused(tiny: tuple[Path, GraphContract], tmp_path: Path, name: str) -> None:
    """Each way that torch.export.load has; nothing of it is run."""
    records, trace = records_of(tiny[0] / layout.WRAPPED / layout.PROGRAM), tmp_path / "trace"
    HOSTILE[name](records, trace)
    path = write(tmp_path / layout.PROGRAM, records)
    with pytest.raises(UserError, match="which can run code") as error:
        pt2.load(path)
    assert error.value.problems[0].where == str(path)
    assert not trace.exists()


@pytest.mark.parametrize("record", [WEIGHTS, CONSTANTS, GRAPH])
@pytest.mark.parametrize("content", [b"{}", b"[]", b"null", b"x", b"\xff", b"[" * 100_000, None])
def test_a_damaged_description(
    tiny: tuple[Path, GraphContract], tmp_path: Path, record: str, content: bytes | None
) -> None:
    """One of the records that describe the program is damaged or missing."""
    records = records_of(tiny[0] / layout.WRAPPED / layout.PROGRAM)
    del records[record]
    path = write(tmp_path / layout.PROGRAM, records | ({} if content is None else {record: content}))
    with pytest.raises(UserError, match="is not a program of torch") as error:
        pt2.load(path)
    assert error.value.problems[0].where == str(path)


def test_a_missing_weight(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """The description names a record that the file lacks."""
    records = records_of(tiny[0] / layout.WRAPPED / layout.PROGRAM)
    del records["data/weights/weight_0"]
    with pytest.raises(UserError, match="is not a program of torch"):
        pt2.load(write(tmp_path / layout.PROGRAM, records))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "opt"])
def test_own_programs_pass(tmp_path: Path, architecture: str) -> None:
    """Learned positions, sliding windows and offsets: guards and expressions of every kind that we write."""
    build_once(tmp_path, [], wrap, model=random_model(architecture))
    check(tmp_path / layout.WRAPPED / layout.PROGRAM)


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        ("Mul(Integer(576), Symbol('s53', positive=True, integer=True))", True),
        ("Max(1, s27)", True),
        ("Add(Symbol('s0'), Integer(-1))", True),
        ("__import__('os').system('true')", False),
        ("exec(chr(49))", False),
        ("eval(Symbol('s0'))", False),
        ("S('exec')(S('chr')(49)+S('chr')(49))", False),
        ("Function('exec')", False),
        ("().__class__", False),
        ("9" * 5000 + "x", False),
    ],
)
def test_expressions(expression: str, plain: bool) -> None:
    """Python evaluates them: sums, products and symbols only. No text takes exponential time."""
    assert bool(EXPRESSION.fullmatch(SYMBOL_NAME.sub("", expression))) == plain


@pytest.mark.parametrize("size", [0, 1000])
def test_a_file_cut_short(tiny: tuple[Path, GraphContract], tmp_path: Path, size: int) -> None:
    """An interrupted copy is a problem that names the file."""
    path = tmp_path / layout.PROGRAM
    path.write_bytes((tiny[0] / layout.WRAPPED / layout.PROGRAM).read_bytes()[:size])
    with pytest.raises(UserError, match="is not a program of torch"):
        pt2.load(path)


@pytest.mark.parametrize(
    ("guard", "plain"),
    [
        ("L['a'].size()[0]*min(64, 64*L['b'].size()[1]) == (64*L['b'].size()[1])", True),
        ("max(1, L['past'][3].stride()[2]) >= 1 and not Eq(Mod(L['a'].size()[0], 2), 1)", True),
        ("min(exec, 1)", False),
        ("min.__class__", False),
        ("L['a'].data_ptr()", False),
    ],
)
def test_guards(guard: str, plain: bool) -> None:
    """Python evaluates them too: sizes, numbers, comparisons and a few functions of numbers."""
    assert bool(GUARD.fullmatch(guard)) == plain
