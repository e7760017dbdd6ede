"""Quantized graphs against PyTorch with the same weights, rounded there; and what the graph then holds."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Embedding, Quantize, Rounding
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.graph import onnx_file
from pipeline.model.operators import HALVES, Activation
from pipeline.quantization.grids import round_rows
from pipeline.quantize import Quantizer, quantize
from pipeline.runtime.onnxruntime import OnnxRuntime
from tests.support.architectures import mostly_slow, random_model
from tests.support.experts import Mixture, choice, graph_of
from tests.support.points import build_once
from tests.support.quantized import (
    GATES,
    HALF,
    INT4,
    INT4_OFFSET,
    INT8,
    INT8_BLOCKS,
    TIED,
    assert_right,
    quantized,
)

FORMS = [INT8, INT8_BLOCKS, INT4, INT4_OFFSET]


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GraphContract]:
    """A tiny Llama whose head is its embedding."""
    folder = tmp_path_factory.mktemp("tied")
    return folder, build_once(folder, TIED)


@pytest.mark.parametrize("options", FORMS, ids=["int8", "int8 blocks", "int4", "int4 with centers"])
@pytest.mark.parametrize("point", ["tiny", "tied"])
def test_every_form_is_right(point: str, options: Quantize, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Per channel, in blocks, with centers; embedding and head by themselves or one: as PyTorch with those weights."""
    folder, contract = request.getfixturevalue(point)
    entries = quantized(folder, options, tmp_path / "out")
    assert len(entries) == 8 + (options.embedding is Embedding.int8) * (1 if point == "tied" else 2)
    assert_right(folder, tmp_path / "out", contract, options, GATES)


def test_fp16_is_right(tmp_path: Path) -> None:
    """Scales and centers in the compute type, block sums too."""
    contract = build_once(tmp_path / "point", ["precision=fp16"])
    quantized(tmp_path / "point", INT4_OFFSET, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / layout.MODEL)
    assert onnx.TensorProto.FLOAT not in {t.data_type for t in model.graph.initializer if t.name.endswith("scale")}
    assert_right(tmp_path / "point", tmp_path / "out", contract, INT4_OFFSET, HALF)


@pytest.mark.parametrize("architecture", mostly_slow(["gpt2", "qwen2", "phi3"], "gpt2"))
def test_architectures_are_right(architecture: str, tmp_path: Path) -> None:
    """Gemm of GPT-2 and OPT, biases, packed projections, widths that 32 does not divide, all with 8 and with 4 bits."""
    point = tmp_path / "point"
    contract = build_once(point, [], model=random_model(architecture))
    for options in (INT8, INT4_OFFSET):
        out = tmp_path / options.weights.value
        assert len(quantized(point, options, out)) >= 3 * 4 + 2
        assert_right(point, out, contract, options, GATES)


@pytest.mark.parametrize("options", [INT8, INT4_OFFSET], ids=["int8", "int4"])
def test_reference_evaluator_agrees(tied: tuple[Path, GraphContract], options: Quantize, tmp_path: Path) -> None:
    """onnx's own evaluator and ONNX Runtime give the same logits: the forms mean the same to both."""
    folder, contract = tied
    quantized(folder, options, tmp_path / "out")
    runtime = OnnxRuntime(tmp_path / "out" / layout.MODEL, contract, Profiles.of_axes(contract))
    ids = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    feeds: dict[str, Any] = {t.name: np.zeros(t.sized(batch=2), t.dtype) for t in contract.caches} | {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.tile(np.arange(4), (2, 1)),
        "cache_position": np.zeros(2, np.int64),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        (logits, *_) = ReferenceEvaluator(onnx.load(tmp_path / "out" / layout.MODEL)).run(None, feeds)
    np.testing.assert_allclose(logits, runtime.session(2).step(ids.tolist()), atol=1e-4)


def test_one_sum_for_all_readers(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """q, k and v read the same numbers: their block sums are made once; gate and up likewise."""
    quantized(tiny[0], INT4_OFFSET, tmp_path / "out")
    sums = [n for n in onnx_file.load(tmp_path / "out").graph if n.op_type == "ReduceSum" and "int" not in n.name]
    blocks = [n for n in sums if (made := n.inputs[0].producer()) and made.op_type == "Reshape"]
    assert len(blocks) == 2 * 4  # before qkv, o, gate and up, down


def test_a_tied_weight_is_stored_once(tied: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Embedding and head read the same whole numbers and scales."""
    quantized(tied[0], INT8, tmp_path / "out")
    shapes = [
        v.shape for v in onnx_file.load(tmp_path / "out").graph.initializers.values() if v.dtype == ir.DataType.INT8
    ]
    assert [s for s in shapes if s is not None and 512 in s.numpy()] == [[512, 64]]


@pytest.mark.parametrize("options", [INT8, INT8_BLOCKS, INT4, INT4_OFFSET])
@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_right(transposed: bool, options: Quantize) -> None:
    """A stack of experts' weights on its grid, which has no offsets: as the operator with these weights."""
    mixture = Mixture(Activation(HALVES, "silu"), transposed=transposed)
    model = graph_of(mixture)
    quantize(model, Quantizer(options, lambda: None), least=0)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert {node.op_type for node in proto.graph.node} >= {"DequantizeLinear", "Loop"}
    assert not {"up", "down"} & {tensor.name for tensor in proto.graph.initializer}
    parameters = [mixture.get_parameter(name) for name in ("up", "down")]
    before = [parameter.clone() for parameter in parameters]
    fmt, given = FORMATS[options.weights], choice(5)
    with torch.no_grad():
        for parameter in parameters:
            rows = parameter.transpose(1, 2) if transposed else parameter
            flat = rows.reshape(-1, rows.shape[2]).numpy()
            block = next(b for b in (options.block_size, 16) if b <= flat.shape[1]) or flat.shape[1]
            rounded = torch.from_numpy(round_rows(np.ascontiguousarray(flat), block, fmt).values()).view(rows.shape)
            parameter.copy_(rounded.transpose(1, 2) if transposed else rounded)
        want = mixture(*given).numpy()
    assert not any(torch.equal(*pair) for pair in zip(before, parameters, strict=True))
    feeds = dict(zip((value.name for value in session.get_inputs()), (v.numpy() for v in given), strict=True))
    np.testing.assert_allclose(session.run(None, feeds)[0], want, rtol=1e-4, atol=1e-4)


def test_experts_are_not_left_in_floats_silently() -> None:
    """A format of small floats has no form for a stack: an error names the key."""
    options = Quantize(Weights.fp8, 0, True, Embedding.none, False, Rounding.nearest)
    with pytest.raises(UserError, match="=fp8 does not reach the experts"):
        quantize(graph_of(Mixture(Activation(HALVES, "silu"))), Quantizer(options, lambda: None), least=0)
