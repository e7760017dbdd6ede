"""TensorRT for tests: the adapter where its package is installed, and networks of tiny models."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from pipeline import quantize
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.schema import Embedding, Quantize, Weights
from pipeline.core.tables.engines import EngineKind
from pipeline.graph import onnx_file
from pipeline.runtime import tensorrt_api
from pipeline.runtime.tensorrt_api import TensorRT


def rtx() -> TensorRT:
    """TensorRT-RTX; without its package the test is skipped."""
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install -e '.[tensorrt-rtx]'"
    )
    return tensorrt_api.load(EngineKind.tensorrt_rtx)


def contract_of(model: Path) -> GraphContract:
    """The contract of a portable model's folder in a point."""
    return GraphContract.load(model.parent / layout.WRAPPED / layout.CONTRACT)


def edited(folder: Path, out: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a model's folder with an edited graph, beside its contract."""
    copy = Path(shutil.copytree(folder, out / folder.name))
    (out / layout.WRAPPED).symlink_to(folder.parent / layout.WRAPPED)
    model = onnx.load(copy / layout.MODEL, load_external_data=False)
    edit(model)
    onnx.save(model, copy / layout.MODEL)
    return copy


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """A node by its name."""
    return next(node for node in model.graph.node if node.name == name)


def quantized(point: Path, out: Path, weights: Weights, *, symmetric: bool = True) -> Path:
    """A point's simplified model with all its weights quantized, small ones too, as a point's folder in `out`."""
    folder = out / layout.QUANTIZED
    folder.mkdir(parents=True)
    (out / layout.WRAPPED).symlink_to(point / layout.WRAPPED)
    block = {Weights.int8: 0, Weights.int4: 32, Weights.fp8: 0, Weights.nvfp4: 16}[weights]
    embedding = Embedding.int8 if weights in (Weights.int8, Weights.int4) else Embedding.none
    options = Quantize(weights, block, symmetric, embedding, gguf_blocks=False)
    model = onnx_file.load(point / layout.SIMPLIFIED)
    quantize.quantize(model, quantize.Quantizer(options, lambda: None), least=0)
    onnx_file.save(model, folder)
    return folder
