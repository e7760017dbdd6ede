"""prepare: what is rewritten for TensorRT computes the same in ONNX Runtime, and nothing is dropped."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from pipeline.backends.tensorrt.prepare import prepare
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.errors import UserError
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Weights
from pipeline.graph import onnx_file
from pipeline.graph.attention import LENGTHS, MASK
from pipeline.graph.translations import TRANSLATIONS
from pipeline.runtime.onnxruntime import OnnxRuntime
from tests.support.tensorrt import contract_of, quantized

Point = tuple[Path, GraphContract]


def logits(model: Path, contract: GraphContract) -> list[np.ndarray]:
    """Of a ragged prefill, a chunk and a decode step."""
    session = OnnxRuntime(model / layout.MODEL, contract, Profiles.of_axes(contract)).session(2)
    return [session.step(rows) for rows in ([[5, 6, 7, 8], [9]], [[1, 2], [3, 4, 5]], [[6], [7]])]


def prepared(folder: Path, out: Path, *, lengths: bool) -> ir.Model:
    """A model as it is handed to the parser, written to `out` for ONNX Runtime."""
    model = onnx_file.load(folder)
    prepare(model, lengths=lengths)
    out.mkdir()
    onnx_file.save(model, out)
    return model


def operators(model: ir.Model) -> set[str]:
    """Operator types of a graph."""
    return {node.op_type for node in model.graph}


def compare(folder: Path, out: Path, *, lengths: bool) -> ir.Model:
    """Fail unless the prepared model gives the logits of the portable one."""
    contract = contract_of(folder)
    model = prepared(folder, out, lengths=lengths)
    for one, other in zip(logits(folder, contract), logits(out, contract), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        assert np.ptp(one) > 1
    return model


def test_with_lengths_queries_alone_are_scaled(tiny: Point, tmp_path: Path) -> None:
    """Attention stays where TensorRT takes lengths; its scale moves to the queries, away from the cache of keys."""
    model = compare(tiny[0] / layout.SIMPLIFIED, tmp_path / "lengths", lengths=True)
    nodes = [node for node in model.graph if node.op_type == "Attention"]
    assert [node.attributes["scale"].value for node in nodes] == [1.0, 1.0]
    assert all(node.inputs[LENGTHS] is not None and node.attributes["is_causal"].value for node in nodes)


def test_without_lengths_a_mask_says_the_same(tiny: Point, tmp_path: Path) -> None:
    """One mask for all layers, equal logits in a ragged batch, no lengths left."""
    model = compare(tiny[0] / layout.SIMPLIFIED, tmp_path / "mask", lengths=False)
    nodes = [node for node in model.graph if node.op_type == "Attention"]
    assert len({node.inputs[MASK] for node in nodes}) == 1
    assert all(len(node.inputs) <= LENGTHS or node.inputs[LENGTHS] is None for node in nodes)


def test_a_softcap_and_a_window_are_kept(window: Point, tmp_path: Path) -> None:
    """Gemma 2: scores capped, every other layer with a window; decomposed, equal with and without lengths."""
    for lengths in (True, False):
        model = compare(window[0] / layout.SIMPLIFIED, tmp_path / str(lengths), lengths=lengths)
        assert "Attention" not in operators(model)
        assert {"Tanh", "Softmax"} <= operators(model)


class Attends(torch.nn.Module):
    """Attention of 4 heads over 2 of a cache, with what TensorRT's own has not."""

    def __init__(self, sinks: bool) -> None:
        super().__init__()
        self.sinks = torch.tensor([-3.0, 0.0, 1.0, 4.0]) if sinks else None

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        length = position + query.shape[2]
        own = None if mask.shape[3] == 1 else mask
        return torch.ops.kvforge.attend(query, key, value, length, own, 0.5, 0.0, self.sinks)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    ("sinks", "width", "mask"),
    [(True, 8, None), (True, 8, torch.bool), (False, 16, None), (False, 8, torch.float32), (True, 16, torch.float32)],
)
def test_what_tensorrts_attention_has_not_is_written_out(
    tmp_path: Path, sinks: bool, width: int, mask: torch.dtype | None
) -> None:
    """Sinks, values of another size than keys, masks that are added, one for each head: the same numbers."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, *size, generator=draw) for size in ((4, 3, 8), (2, 16, 8), (2, 16, width)))
    seen = torch.rand(2, 1, 3, 16, generator=draw) > 0.3
    masks = {None: torch.zeros(2, 1, 3, 1), torch.bool: seen, torch.float32: torch.randn(2, 4, 3, 16, generator=draw)}
    module, args = Attends(sinks), (query, key, value, torch.tensor([0, 13]), masks[mask])
    batch, sequence = torch.export.Dim("batch", max=8), torch.export.Dim("sequence", max=8)
    axes = tuple({0: batch} | ({2: sequence} if i in (0, 4) else {}) for i in range(5))
    program = torch.export.export(module, args, dynamic_shapes=axes)
    model = translate_alone(program)
    prepare(model, lengths=True)
    assert not {"Attention", "ReduceLogSumExp"} & operators(model)
    ir.save(model, tmp_path / "model.onnx")
    names = [str(value.name) for value in model.graph.inputs]
    feeds = dict(zip(names, (tensor.numpy() for tensor in args), strict=True))
    (out,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, feeds)
    np.testing.assert_allclose(out, module(*args).numpy(), atol=1e-5)


def translate_alone(program: torch.export.ExportedProgram) -> ir.Model:
    """A program's graph, with the shapes that onnxsim would infer."""
    made = torch.onnx.export(
        program, dynamo=True, opset_version=24, optimize=False, verbose=False, custom_translation_table=TRANSLATIONS
    )
    assert made is not None
    return made.model


@pytest.mark.parametrize("weights", [Weights.int8, Weights.int4])
def test_gathered_rows_are_packed(tiny: Point, tmp_path: Path, weights: Weights) -> None:
    """An embedding of 8 bits is packed into int32, and centers of blocks stay."""
    folder = quantized(tiny[0], tmp_path / "point", weights, symmetric=weights is Weights.int8)
    model = compare(folder, tmp_path / "packed", lengths=True)
    packed = [value for value in model.graph.initializers.values() if str(value.name).endswith(".packed")]
    assert [value.dtype for value in packed] == [ir.DataType.INT32]


def test_blocks_in_a_table_are_exact(tmp_path: Path) -> None:
    """Packed and unpacked, all 256 values are what they were, with a scale for each 32 numbers of a row (GGUF Q8_0)."""
    rng = np.random.default_rng(0)
    q, scale = rng.integers(-128, 128, (7, 64), dtype=np.int8), rng.random((7, 2), np.float32)
    ids = np.array([[3, 0, 6]])
    table, scales = (ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in (("q", q), ("s", scale)))
    chosen = ir.val("input_ids", ir.DataType.INT64, ["batch", "sequence"])
    rows = [ir.node("Gather", [value, chosen], {"axis": 0}) for value in (table, scales)]
    last = ir.node("DequantizeLinear", [row.outputs[0] for row in rows], {"axis": -1, "block_size": 32})
    last.outputs[0].name, last.outputs[0].dtype, last.outputs[0].shape = "out", ir.DataType.FLOAT, ir.Shape([1, 3, 64])
    made = ir.Graph([chosen], last.outputs, nodes=[*rows, last], initializers=[table, scales], opset_imports={"": 24})
    model = ir.Model(made, ir_version=11)
    prepare(model, lengths=True)
    assert "DequantizeLinear" not in operators(model)
    ir.save(model, tmp_path / "model.onnx")
    (out,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"input_ids": ids})
    np.testing.assert_array_equal(out, (q.astype(np.float32) * scale.repeat(32, 1))[ids])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"left_window_size": 6}, "drops left_window_size=6"),
        ({"softmax_precision": 1}, "drops softmax_precision"),
        ({"is_causal": 0}, "causal with lengths, or have a mask alone"),
        ({"qk_matmul_output_mode": 1}, "drops qk_matmul_output_mode=1"),
    ],
)
def test_what_the_parser_would_drop_is_refused(tiny: Point, change: dict[str, int], says: str) -> None:
    """Every Attention of which something would be lost is named."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    for node in [node for node in model.graph if node.op_type == "Attention"]:
        for name, value in change.items():
            node.attributes[name] = ir.AttrInt64(name, value)
    with pytest.raises(UserError) as error:
        prepare(model, lengths=True)
    assert [p.what.partition(":")[0] for p in error.value.problems] == [
        f"model.layers.{i}.self_attn.Attention" for i in (0, 1)
    ]
    assert all(says in problem.what for problem in error.value.problems)
