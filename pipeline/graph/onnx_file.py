"""An ONNX model's files: model.onnx, and model.onnx.data with the weights of more than 64 KiB."""

from pathlib import Path

import onnx
import onnx_ir as ir

from pipeline.core.layout import DATA, MODEL

INLINE_UP_TO = 65536  # bytes; such tensors stay in the graph, where constant folding reaches them


def save(model: ir.Model, folder: Path) -> None:
    """Write `folder`/model.onnx and `folder`/model.onnx.data."""
    ir.save(model, folder / MODEL, external_data=DATA, size_threshold_bytes=INLINE_UP_TO)


def load(folder: Path) -> ir.Model:
    """Load `folder`/model.onnx; the weights stay on disk, memory-mapped."""
    return ir.load(folder / MODEL)


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Names of the values that a graph's nodes read, those in the bodies of a Loop included."""
    bodies = [attr.g for node in graph.node for attr in node.attribute if attr.type == onnx.AttributeProto.GRAPH]
    own = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return own.union(*map(names_read, bodies))
