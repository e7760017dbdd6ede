"""The quick saving and loading of a program gives what torch.export's own does."""

from pathlib import Path

import torch

from pipeline import layout, pt2
from pipeline.signature import Signature


def test_same_bytes_and_same_program(tiny: tuple[Path, Signature], tmp_path: Path) -> None:
    """Saved again by torch.export, the wrapped program has the same bytes; loaded by either it is the same graph."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    ours, theirs = pt2.load(path), torch.export.load(path)
    assert str(ours.graph) == str(theirs.graph)
    assert [str(n.meta["val"]) for n in ours.graph.nodes if "val" in n.meta] == [
        str(n.meta["val"]) for n in theirs.graph.nodes if "val" in n.meta
    ]
    assert all(torch.equal(tensor, theirs.state_dict[name]) for name, tensor in ours.state_dict.items())
    torch.export.save(ours, tmp_path / "theirs.pt2")
    pt2.save(ours, tmp_path / "ours.pt2")
    assert (tmp_path / "ours.pt2").read_bytes() == (tmp_path / "theirs.pt2").read_bytes()
