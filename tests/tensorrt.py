"""TensorRT for tests: the adapter where its package is installed, and networks of tiny models."""

from pathlib import Path

import pytest

from pipeline import graph, layout, quantize, tensorrt_api
from pipeline.signature import Signature
from pipeline.spec import Embedding, EngineKind, Quantize, Weights
from pipeline.tensorrt_api import TensorRT


def rtx() -> TensorRT:
    """TensorRT-RTX; without its package the test is skipped."""
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install -e '.[tensorrt-rtx]'"
    )
    return tensorrt_api.load(EngineKind.tensorrt_rtx)


def signature_of(model: Path) -> Signature:
    """The contract of a portable model's folder in a point."""
    return Signature.load(model.parent / layout.WRAPPED / layout.SIGNATURE)


def quantized(point: Path, out: Path, weights: Weights, *, symmetric: bool = True) -> Path:
    """A point's simplified model with all its weights quantized, small ones too, as a point's folder in `out`."""
    folder = out / layout.QUANTIZED
    folder.mkdir(parents=True)
    (out / layout.WRAPPED).symlink_to(point / layout.WRAPPED)
    block = {Weights.int8: 0, Weights.int4: 32, Weights.fp8: 0, Weights.nvfp4: 16}[weights]
    embedding = Embedding.int8 if weights in (Weights.int8, Weights.int4) else Embedding.none
    options = Quantize(weights, block, symmetric, embedding, gguf_blocks=False)
    model = graph.load(point / layout.SIMPLIFIED)
    quantize.quantize(model, quantize.Quantizer(options, lambda _: None), least=0)
    graph.save(model, folder)
    return folder
