"""Load the wrapped program's file, which is in torch.export's own format."""

from pathlib import Path

import torch

from pipeline.model import operators, pt2_check  # noqa: F401  # registers the operators that the file refers to
from pipeline.model.patches import mapped_weights, parsed_sizes


def load(path: Path) -> torch.export.ExportedProgram:
    """Load a program that torch.export.save wrote; its weights stay on disk, memory-mapped, and are not written back.

    Raises UserError for a file that holds anything else: it could run code.
    """
    pt2_check.check(path)
    with mapped_weights(path), parsed_sizes():
        return torch.export.load(path)
