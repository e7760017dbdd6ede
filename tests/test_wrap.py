"""What the wrap stage leaves: one symbol for each axis whatever its size, and the same bytes each time."""

from pathlib import Path

import pytest
import torch

from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract, contract_for
from pipeline.core.schema import Model, section
from pipeline.model import decoder
from pipeline.proof.interface import program_findings
from pipeline.wrap import trace
from tests.support.points import build


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("sequence", [1, 2, 4, 32])
def test_axes_stay_symbolic_at_every_size(tiny: tuple[Path, GraphContract], batch: int, sequence: int) -> None:
    """Also an axis of a single size: no finding, which means one symbol for each axis on all inputs and outputs."""
    model = loading.load(section(Model, tiny[0]), tiny[0])
    layers = decoder.cache_shapes(model, 64)
    contract = contract_for(layers, 512, "fp32", "last", {"batch": batch, "sequence": sequence})
    assert program_findings(trace(decoder.Decoder(model, "last").eval(), contract), contract) == []


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
