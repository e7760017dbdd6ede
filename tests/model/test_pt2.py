"""pt2: a program loads as torch.export loads it, and no other file does."""

from pathlib import Path

import pytest
import torch

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.model import pt2


def test_the_same_program(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Graph, shapes and weights; saved again, they are the same file."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    ours, theirs = pt2.load(path), torch.export.load(path)
    assert str(ours.graph) == str(theirs.graph)
    assert [str(n.meta["val"]) for n in ours.graph.nodes if "val" in n.meta] == [
        str(n.meta["val"]) for n in theirs.graph.nodes if "val" in n.meta
    ]
    assert all(torch.equal(tensor, theirs.state_dict[name]) for name, tensor in ours.state_dict.items())
    written = []
    for name, program in (("ours", ours), ("theirs", theirs)):  # the file's name is in the file
        (tmp_path / name).mkdir()
        torch.export.save(program, tmp_path / name / layout.PROGRAM)
        written.append((tmp_path / name / layout.PROGRAM).read_bytes())
    assert written[0] == written[1]


def test_another_file_is_refused(tmp_path: Path) -> None:
    """Before torch reads it; test_pt2_check has the ways in which it may differ."""
    torch.save(torch.zeros(1), tmp_path / layout.PROGRAM)
    with pytest.raises(UserError, match=layout.PROGRAM):
        pt2.load(tmp_path / layout.PROGRAM)
