"""Quantized graphs against PyTorch with the same weights, rounded there; and what is carried over from GGUF files."""

import json
import warnings
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from onnx.reference import ReferenceEvaluator
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipeline import quantize
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Embedding, Gates, Model, Quantize, Rounding, Weights, section
from pipeline.graph import onnx_file
from pipeline.proof.cases import catalog
from pipeline.proof.compare import ReferenceAnswers, run_case
from pipeline.proof.interface import onnx_findings
from pipeline.proof.reference import Reference
from pipeline.proof.results import Limits, limits
from pipeline.quantization import grids, weights
from pipeline.runtime.onnxruntime import OnnxRuntime
from tests.support.architectures import mostly_slow, random_model
from tests.support.points import build_once

GATES = limits(Gates(logits_error=1e-4, kl=1e-8, cache_error=1e-4, greedy_agreement=1.0))
HALF = limits(Gates(logits_error=0.05, kl=1e-3, cache_error=0.02, greedy_agreement=1.0))
INT8 = Quantize(Weights.int8, 0, True, Embedding.int8, True, Rounding.nearest)
INT8_BLOCKS = Quantize(Weights.int8, 32, True, Embedding.int8, True, Rounding.nearest)
INT4 = Quantize(Weights.int4, 32, True, Embedding.none, True, Rounding.nearest)
INT4_CENTER = Quantize(Weights.int4, 32, False, Embedding.int8, True, Rounding.nearest)
FORMS = [INT8, INT8_BLOCKS, INT4, INT4_CENTER]
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
    if bits == 8:
        grid = grids.nearest(values, block, bits)
    else:
        grid = grids.closest(values, block, bits, centered=not options.symmetric)
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


def quantized(point: Path, options: Quantize, out: Path, source: Path | None = None) -> list[quantize.Entry]:
    """Quantize all weights of a point's simplified model, the smallest too, into `out`."""
    model = onnx_file.load(point / layout.SIMPLIFIED)
    dtype = model.graph.outputs[0].dtype
    assert dtype is not None
    library = quantize.blocks_of(source or point / layout.CHECKPOINT, dtype.numpy())
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
    quantized(tmp_path / "point", INT4_CENTER, tmp_path / "out")
    model = onnx.load(tmp_path / "out" / layout.MODEL)
    assert onnx.TensorProto.FLOAT not in {t.data_type for t in model.graph.initializer if t.name.endswith("scale")}
    assert_right(tmp_path / "point", tmp_path / "out", contract, INT4_CENTER, HALF)


@pytest.mark.parametrize("architecture", mostly_slow(["gpt2", "qwen2", "phi3"], "gpt2"))
def test_architectures_are_right(architecture: str, tmp_path: Path) -> None:
    """Gemm of GPT-2 and OPT, biases, packed projections, widths that 32 does not divide, all with 8 and with 4 bits."""
    point = tmp_path / "point"
    contract = build_once(point, [], model=random_model(architecture))
    for options in (INT8, INT4_CENTER):
        out = tmp_path / options.weights.value
        assert len(quantized(point, options, out)) >= 3 * 4 + 2
        assert_right(point, out, contract, options, GATES)


@pytest.mark.parametrize("options", [INT8, INT4_CENTER], ids=["int8", "int4"])
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


def test_no_block_fits(tmp_path: Path) -> None:
    """A layer whose input 16 does not divide gets 8 bits per channel, and the report says so."""
    point = tmp_path / "point"
    contract = build_once(point, ["model.config.intermediate_size=120"])
    entries = quantized(point, INT4, tmp_path / "out")
    odd = [e for e in entries if "down_proj" in e.name]
    assert {(e.form, e.block) for e in odd} == {("linear, int8 per channel", 120)}
    assert_right(point, tmp_path / "out", contract, INT4, GATES)


def test_one_sum_for_all_readers(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """q, k and v read the same numbers: their block sums are made once; gate and up likewise."""
    quantized(tiny[0], INT4_CENTER, tmp_path / "out")
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


def test_small_weights_stay(tiny: tuple[Path, GraphContract]) -> None:
    """What has less than 64 KiB, such as a router's weight, is not quantized by the stage itself."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    entries = quantize.quantize(model, quantize.Quantizer(INT8, lambda _: None))
    assert (
        sorted(e.bytes_before for e in entries) == [256 * 64 * 4] * 2 + [512 * 64 * 4] * 2
    )  # those of 64 KiB and more


def test_nothing_to_quantize(tiny: tuple[Path, GraphContract]) -> None:
    """With quantize.weights=none the folder holds the report alone, and the simplified model goes on."""
    folder = tiny[0] / layout.QUANTIZED
    assert [path.name for path in folder.iterdir()] == [layout.QUANTIZATION]
    assert json.loads((folder / layout.QUANTIZATION).read_text())["weights"] == "none"
    assert layout.final_model(tiny[0]).name == layout.SIMPLIFIED


def write_gguf(path: Path, tensors: dict[str, tuple[np.ndarray, Kind]]) -> None:
    """A GGUF file with these rows, rounded by the gguf package."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, (rows, kind) in tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored(rows: np.ndarray, kind: Kind) -> np.ndarray:
    """What a GGUF file makes of rows."""
    values: np.ndarray = gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind)
    return values


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


PROJECTIONS = [f"model.layers.0.{name}.weight" for name in ("self_attn.o_proj", "mlp.gate_up_proj")]
COUNTS = {"q": 64, "u": 128, "g": 128, "e": 512}  # rows of these and of the embedding


@pytest.mark.parametrize("precision", mostly_slow(["fp32", "fp16"], "fp32"))
def test_blocks_of_a_gguf_file_are_carried_over(precision: str, tmp_path: Path) -> None:
    """Q4_0, Q4_1 and Q8_0, found in whatever order the rows are; other weights of the model are rounded anew."""
    build_once(tmp_path / "built", [f"precision={precision}", *TIED])
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(0, 0.2, (n, 64)).astype(np.float32) for name, n in COUNTS.items()}
    kinds = {"q": Kind.Q4_0, "u": Kind.Q4_1, "g": Kind.Q4_1, "e": Kind.Q8_0}
    write_gguf(tmp_path / "model.gguf", {f"{name}.weight": (rows[name], kinds[name]) for name in rows})
    q, u, g, e = (stored(rows[name], kinds[name]) for name in COUNTS)
    projections = (q[rng.permutation(64)].T, np.concatenate([g, u]).T)
    numbers = dict(zip(PROJECTIONS, projections, strict=True)) | {"lm_head.weight": e}
    point = with_weights(tmp_path / "built", numbers, tmp_path / "point")

    entries = {e.name: e for e in quantized(point, INT4_CENTER, tmp_path / "out", tmp_path / "model.gguf")}
    whole = {name for name, entry in entries.items() if entry.carried_over == entry.rows}
    assert whole == set(numbers)
    assert entries[PROJECTIONS[0]].form == "linear, int4 blocks of 32"
    assert entries[PROJECTIONS[1]].form == "linear, int4 blocks of 32 with a center"
    assert entries["lm_head.weight"].form == "table, int8 blocks of 32"
    if precision == "fp32":
        assert all(entries[name].exact == entries[name].rows and entries[name].rms == 0 for name in whole)

    initializers = onnx_file.load(tmp_path / "out").graph.initializers
    name = PROJECTIONS[1]
    ints, scale, center = (initializers[f"{name}.{part}"].const_value.numpy() for part in ("int4", "scale", "center"))
    file = gguf.quants.quantize(np.concatenate([rows["g"], rows["u"]]), Kind.Q4_1).reshape(256, 2, 20)
    d, m = (file[:, :, i : i + 2].copy().view(np.float16)[:, :, 0].astype(np.float32) for i in (0, 2))
    np.testing.assert_array_equal(scale.T, d)
    np.testing.assert_array_equal(center.T, (m + 8 * d).astype(center.dtype))
    np.testing.assert_array_equal(ints.T.reshape(256, 2, 32)[:, :, :16].astype(np.int8) + 8, file[:, :, 4:] & 15)


def test_packed_rows_are_carried_over_in_part(tmp_path: Path) -> None:
    """A packed weight with rows of two tensors and a few that are in no file: those few are rounded anew."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (60, 64)).astype(np.float32)
    write_gguf(tmp_path / "a.gguf", {"a": (rows[:30], Kind.Q4_1), "b": (rows[30:50], Kind.Q4_0)})
    packed = np.concatenate([stored(rows[:30], Kind.Q4_1), stored(rows[30:50], Kind.Q4_0), rows[50:]])
    packed = packed[rng.permutation(60)]
    library = quantize.blocks_of(tmp_path / "a.gguf", np.float32)
    options = Quantize(Weights.int4, 64, True, Embedding.none, True, Rounding.nearest)
    value = ir.Value(name="w", const_value=ir.tensor(packed))
    quantizer = quantize.Quantizer(options, library)
    (job,) = quantizer.jobs([weights.Weight(value, (), False, False, True)])
    grid, entry = quantizer.quantize(job, {})
    assert (entry.carried_over, entry.exact, entry.block) == (50, 50, 32)
    assert np.abs(grid.values() - packed).max() < 0.05


def test_blocks_that_are_carried_over_need_no_text(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """GPTQ asks for the inputs of the weights that it rounds, and for none where all come from the file."""
    asked: list[set[str]] = []

    def moments(names: set[str]) -> dict[str, np.ndarray]:
        asked.append(names)
        return {name: np.eye(64, dtype=np.float32) for name in names}

    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (256, 64)).astype(np.float32)
    write_gguf(tmp_path / "model.gguf", {"u": (rows, Kind.Q4_1)})
    own = stored(rows, Kind.Q4_1)
    some = np.concatenate([own[:200], rows[200:]])
    names = [f"model.layers.{layer}.mlp.gate_up_proj.weight" for layer in (0, 1)]
    point = with_weights(tiny[0], dict.fromkeys(names, own.T), tmp_path / "whole")
    part = with_weights(tiny[0], dict(zip(names, (own.T, some.T), strict=True)), tmp_path / "part")
    options = Quantize(Weights.int4, 32, False, Embedding.none, True, Rounding.gptq)
    for folder in (point, part):
        model = onnx_file.load(folder / layout.SIMPLIFIED)
        found = [w for w in weights.find(model.graph, 0) if w.value.name in names]
        quantizer = quantize.Quantizer(options, quantize.blocks_of(tmp_path / "model.gguf", np.float32), moments)
        jobs = quantizer.jobs(found)
        known = quantizer.calibrated(jobs)
        entries = [quantizer.quantize(job, known)[1] for job in jobs]
        assert sorted(entry.carried_over for entry in entries) == [256 if folder is point else 200, 256]
    (inputs,) = asked
    assert inputs == next(job.inputs for job in jobs if job.weight.value.name == names[1])


@pytest.mark.slow
def test_gptq_from_end_to_end(tmp_path: Path) -> None:
    """The stage reads random tokens, as this model has no tokenizer; on others its logits are closer than nearest's."""
    size = "model.config.intermediate_size=512"  # weights of 128 KiB, which the stage quantizes
    rows = np.random.default_rng(1).integers(0, 512, (4, 32)).tolist()
    logits = {}
    for rounding in Rounding:
        folder = tmp_path / rounding.value
        contract = build_once(
            folder, ["precision=int4", size, f"quantize.rounding={rounding.value}", "wrap.logits=all"]
        )
        for name in (layout.SIMPLIFIED, layout.QUANTIZED):
            runtime = OnnxRuntime(folder / name / layout.MODEL, contract, Profiles.of_axes(contract))
            logits[rounding, name] = runtime.session(4).step(rows)
        entries = json.loads((folder / layout.QUANTIZED / layout.QUANTIZATION).read_text())["tensors"]
        assert [e["form"] for e in entries].count("linear, int4 blocks of 32 with a center") == 4
    nearest, by_gptq = (
        np.square(logits[rounding, layout.QUANTIZED] - logits[rounding, layout.SIMPLIFIED]).mean()
        for rounding in (Rounding.nearest, Rounding.gptq)
    )
    assert by_gptq < nearest * 0.8


def test_only_gguf_files_have_blocks(tmp_path: Path) -> None:
    """A folder, a text in place of a checkpoint, nothing at all: no library, and no error."""
    (tmp_path / "text").write_text("random\n")
    for path in (tmp_path, tmp_path / "text", tmp_path / "missing"):
        assert quantize.blocks_of(path, np.float32)(4) is None
