"""What the wrap stage leaves: the same bytes each time, without examples and paths."""

from pathlib import Path

import torch

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.model import decoder
from tests.support.points import build


def test_the_same_point_gives_the_same_bytes(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Built in another folder, every file of wrapped/, onnx/ and simplified/ is equal: DVC's run cache relies on it."""
    build(tmp_path, [])
    for artifact in (layout.WRAPPED, layout.ONNX, layout.SIMPLIFIED):
        for file in (tiny[0] / artifact).iterdir():
            assert (tmp_path / artifact / file.name).read_bytes() == file.read_bytes(), file


def test_the_program_carries_no_example_and_no_path(tiny: tuple[Path, GraphContract]) -> None:
    """Its example inputs would be two rows of every cache; stack traces would name this machine's folders."""
    path = tiny[0] / layout.WRAPPED / layout.PROGRAM
    program = torch.export.load(path)
    assert program.example_inputs is None
    assert str(Path(decoder.__file__).parent).encode() not in path.read_bytes()
