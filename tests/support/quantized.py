"""Quantized models for tests: their graphs, PyTorch's model with the same numbers, and GGUF files of given rows."""

from pathlib import Path

import gguf
import numpy as np
import onnx
import onnx_ir as ir
import torch
from gguf import GGMLQuantizationType
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline import quantize
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Embedding, Model, Quantize, Rounding, section
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.graph import onnx_file
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.interface import onnx_findings
from pipeline.proof.reference import Reference
from pipeline.proof.results import Limits
from pipeline.quantization import grids
from pipeline.runtime.onnxruntime import OnnxRuntime
from tests.support.gates import held

GATES = held(logits_error=1e-4, kl=1e-8, cache_error=1e-4)
HALF = held(logits_error=0.05, kl=1e-3, cache_error=0.02)
INT8 = Quantize(Weights.int8, 0, True, Embedding.int8, True, Rounding.nearest)
INT8_BLOCKS = Quantize(Weights.int8, 32, True, Embedding.int8, True, Rounding.nearest)
INT4 = Quantize(Weights.int4, 32, True, Embedding.none, True, Rounding.nearest)
INT4_OFFSET = Quantize(Weights.int4, 32, False, Embedding.int8, True, Rounding.nearest)
# where a block of GGUF has its fp16 steps, and the largest that give weights of about 0.1
STEPS: dict[str, list[tuple[int, float]]] = {
    "Q2_K": [(80, 5e-3), (82, 5e-3)],
    "Q3_K": [(108, 2e-3)],
    "Q4_0": [(0, 2e-2)],
    "Q4_1": [(0, 2e-2), (2, 1e-1)],
    "Q4_K": [(0, 4e-4), (2, 3e-3)],
    "Q5_0": [(0, 1e-2)],
    "Q5_1": [(0, 1e-2), (2, 1e-1)],
    "Q5_K": [(0, 2e-4), (2, 3e-3)],
    "Q6_K": [(208, 5e-5)],
    "Q8_0": [(0, 1e-3)],
    "IQ4_NL": [(0, 1e-3)],
    "IQ4_XS": [(0, 5e-5)],
    "MXFP4": [],
}
TIED = ["+model.config.tie_word_embeddings=true"]


def rounded(rows: torch.Tensor, options: Quantize, head: bool, dtype: str) -> torch.Tensor:
    """Rows [N, K] of this type on the grid that these options give them."""
    k = rows.shape[1]
    if head and options.embedding is Embedding.none:
        return rows
    bits = 8 if head or options.weights is Weights.int8 else 4
    block = k if head or not options.block_size else next(b for b in (32, 16, 8) if k % b == 0)
    if block < 16:
        block, bits = k, 8
    values = rows.numpy().astype(dtype).astype(np.float32)
    fmt = FORMATS[Weights.int8 if bits == 8 else Weights.int4]
    grid = grids.round_rows(values, block, fmt, offset=bits == 4 and not options.symmetric)
    return torch.from_numpy(grid.rounded(dtype).values())


def with_rounded_weights(model: PreTrainedModel, options: Quantize, dtype: str) -> PreTrainedModel:
    """The same model: its linear layers, embedding and head rounded."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is embedding.weight
    with torch.no_grad():
        for module in model.modules():
            if module is embedding or (isinstance(module, torch.nn.Linear) and not (tied and module is head)):
                module.weight.copy_(rounded(module.weight, options, module in (head, embedding), dtype))
            elif isinstance(module, Conv1D):
                module.weight.copy_(rounded(module.weight.T.contiguous(), options, False, dtype).T)
    return model


def quantized(point: Path, options: Quantize, out: Path, source: Path | None = None) -> list[quantize.WeightReport]:
    """Quantize all weights of a point's simplified model, the smallest too, into `out`."""
    model = onnx_file.load(point / layout.SIMPLIFIED)
    dtype = model.graph.outputs[0].dtype
    assert dtype is not None
    library = quantize.own_rows_of(source or point / layout.CHECKPOINT, dtype.numpy())
    entries = quantize.quantize(model, quantize.Quantizer(options, library), least=0)
    out.mkdir()
    onnx_file.save(model, out)
    return entries


def assert_right(point: Path, out: Path, contract: GraphContract, options: Quantize, held: Limits) -> None:
    """The graph keeps the contract, and in ONNX Runtime every case of verify equals the rounded original."""
    onnx.checker.check_model(out / layout.MODEL, full_check=True)
    assert onnx_findings(onnx.load(out / layout.MODEL), contract) == []
    runtime = OnnxRuntime(out / layout.MODEL, contract, Profiles.of_axes(contract))
    original = loading.load(section(Model, point), point / layout.CHECKPOINT)
    rounded_too = with_rounded_weights(original, options, contract.logits.dtype)
    answers = ReferenceAnswers(Reference(rounded_too), contract, seed=0)
    cases = catalog(runtime.profiles, contract.cache_size)
    assert len(cases) == 13
    failures = {c.name: failed for c in cases if (failed := run_case(c, runtime, answers, held).failures)}
    assert not failures


def write_gguf(path: Path, tensors: dict[str, tuple[np.ndarray, GGMLQuantizationType]]) -> None:
    """A GGUF file with these rows, rounded by the gguf package; uint8 ones are blocks already."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (rows, kind) in tensors.items():
        data = rows if rows.dtype == np.uint8 else gguf.quants.quantize(rows, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(rows: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """What a GGUF file makes of rows."""
    values: np.ndarray = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
    return values


def random_blocks(rows: int, width: int, kind: GGMLQuantizationType, seed: int = 0) -> np.ndarray:
    """Rows of random blocks of any kind, uint8 [rows, bytes], whose fp16 steps are those of weights of about 0.1; the
    gguf package cannot round to most kinds."""
    rng = np.random.default_rng(seed)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows * width // elements, size), np.uint8)
    for at, largest in STEPS[kind.name]:
        # no smaller than half of the largest: minimum and scale of a block are of like size, as in real files
        steps = rng.uniform(largest / 2, largest, (len(data), 1)).astype(np.float16)
        data[:, at : at + 2] = steps.view(np.uint8)
    if kind is GGMLQuantizationType.MXFP4:
        data[:, 0] = rng.integers(122, 126, len(data))
    return data.reshape(rows, -1)


def with_weights(point: Path, numbers: dict[str, np.ndarray], out: Path) -> Path:
    """The point's simplified model with other numbers in some weights, as a point of its own."""
    model = onnx_file.load(point / layout.SIMPLIFIED)
    for name, array in numbers.items():
        value = model.graph.initializers[name]
        assert value.dtype is not None
        value.const_value = ir.tensor(np.ascontiguousarray(array, value.dtype.numpy()), name=name)
    (out / layout.SIMPLIFIED).mkdir(parents=True)
    onnx_file.save(model, out / layout.SIMPLIFIED)
    return out
