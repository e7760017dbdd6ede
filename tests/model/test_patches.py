"""patches: each takes effect in the installed torch, and torch's own path gives the same result."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch._export.serde.serialize import GraphModuleDeserializer

from pipeline import export
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.patching import patched
from pipeline.core.profiles import Profiles
from pipeline.graph import onnx_file
from pipeline.model import pt2
from pipeline.runtime.onnxruntime import OnnxRuntime

OPSET = 24


@pytest.fixture
def without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a version of torch whose names are others."""

    def renamed(owner: str, saves: str, **replacements: Any) -> Any:
        return patched(owner, saves, **{f"renamed_{name}": make for name, make in replacements.items()})

    monkeypatch.setattr("pipeline.model.patches.patched", renamed)


def saved(program: torch.export.ExportedProgram, folder: Path) -> bytes:
    """The program's file; its name is in it."""
    folder.mkdir()
    torch.export.save(program, folder / layout.PROGRAM)
    return (folder / layout.PROGRAM).read_bytes()


def nodes(model: ir.Model) -> list[tuple[str, str, dict[str, str]]]:
    """Each node's name, operator and attributes, but for those of a cast that are the default."""
    defaults = {"saturate": "1", "round_mode": "'up'"}
    return [
        (
            str(node.name),
            node.op_type,
            {name: str(value) for name, value in node.attributes.items() if defaults.get(name) != str(value)},
        )
        for node in model.graph
    ]


def test_every_name_is_there(tiny: tuple[Path, GraphContract], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is left out with the installed versions; of an upgrade this is the first thing to know."""
    export.translate(pt2.load(tiny[0] / layout.WRAPPED / layout.PROGRAM), tiny[1], OPSET)
    assert capsys.readouterr().err == ""


def test_a_program_is_loaded_without_them(
    tiny: tuple[Path, GraphContract],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_names: None,  # until they are back
) -> None:
    """The same program to the byte, after a line for each on stderr."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    plain = saved(pt2.load(path), tmp_path / "plain")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "get_storage_from_record" in lines[0]
    assert "deserialize_sym_int" in lines[1]
    monkeypatch.undo()
    assert saved(pt2.load(path), tmp_path / "quick") == plain
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("without_names")
def test_a_graph_is_exported_without_it(
    tiny: tuple[Path, GraphContract], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Decomposed, and with its casts looked for: the same nodes, weights and logits. Values have other names."""
    folder, contract = tiny
    onnx_file.save(export.translate(pt2.load(folder / layout.WRAPPED / layout.PROGRAM), contract, OPSET), tmp_path)
    assert "decompose_with_registry" in capsys.readouterr().err.splitlines()[-1]
    quick = folder / layout.ONNX
    assert nodes(ir.load(tmp_path / layout.MODEL)) == nodes(ir.load(quick / layout.MODEL))
    assert (tmp_path / layout.DATA).read_bytes() == (quick / layout.DATA).read_bytes()
    answers = []
    for model in (tmp_path, quick):
        session = OnnxRuntime(model / layout.MODEL, contract, Profiles.of_axes(contract)).session(2)
        answers.append([session.step([[1, 2, 3, 4], [5, 6]]), session.step([[7], [8, 9]]), *session.caches])
    for found, wanted in zip(*answers, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_weights_are_mapped(tiny: tuple[Path, GraphContract]) -> None:
    """They take no memory of their own, and a change to them does not reach the file."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    before = path.read_bytes()
    program = pt2.load(path)
    assert str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    for tensor in program.state_dict.values():
        tensor.data.fill_(7)
    assert path.read_bytes() == before


def test_sizes_are_parsed_once(tiny: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each size once for a loading, and none is remembered for the next."""
    asked: Counter[str] = Counter()
    plain = GraphModuleDeserializer.deserialize_sym_int

    @functools.wraps(plain)
    def counted(reader: Any, size: Any) -> Any:
        asked[repr(size)] += 1
        return plain(reader, size)

    monkeypatch.setattr(GraphModuleDeserializer, "deserialize_sym_int", counted)
    for times in (1, 2):
        pt2.load(tiny[0] / layout.WRAPPED / layout.PROGRAM)
        assert set(asked.values()) == {times}


def test_nothing_is_decomposed(tiny: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every operator has a translation."""
    program = pt2.load(tiny[0] / layout.WRAPPED / layout.PROGRAM)
    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", lambda *_: pytest.fail("decomposed"))
    assert len(export.translate(program, tiny[1], OPSET).graph) > 0
