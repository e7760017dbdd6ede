"""The quick saving and loading of a program gives what torch.export's own does."""

from pathlib import Path

import torch

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.model import pt2


def test_same_bytes_and_same_program(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Saved again by torch.export, the wrapped program has the same bytes; loaded by either it is the same graph."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    ours, theirs = pt2.load(path), torch.export.load(path)
    assert str(ours.graph) == str(theirs.graph)
    assert [str(n.meta["val"]) for n in ours.graph.nodes if "val" in n.meta] == [
        str(n.meta["val"]) for n in theirs.graph.nodes if "val" in n.meta
    ]
    assert all(torch.equal(tensor, theirs.state_dict[name]) for name, tensor in ours.state_dict.items())
    written = []
    for name, save in (("ours", pt2.save), ("theirs", torch.export.save)):  # the file's name is in the file
        (tmp_path / name).mkdir()
        save(ours, tmp_path / name / layout.PROGRAM)
        written.append((tmp_path / name / layout.PROGRAM).read_bytes())
    assert written[0] == written[1]
