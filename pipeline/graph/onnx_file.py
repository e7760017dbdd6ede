"""An ONNX model's files: model.onnx, and model.onnx.data with the weights of more than 64 KiB."""

from pathlib import Path

import onnx_ir as ir

from pipeline.core.layout import DATA, MODEL

INLINE_UP_TO = 65536  # bytes; such tensors stay in the graph, where constant folding reaches them


def save(model: ir.Model, folder: Path) -> None:
    """Write `folder`/model.onnx and `folder`/model.onnx.data."""
    ir.save(model, folder / MODEL, external_data=DATA, size_threshold_bytes=INLINE_UP_TO)


def load(folder: Path) -> ir.Model:
    """Load `folder`/model.onnx; the weights stay on disk, memory-mapped."""
    return ir.load(folder / MODEL)
