"""The stage: which weights are quantized and how, what is carried over from GGUF files, and the report."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from gguf import GGMLQuantizationType

from pipeline import quantize, simplify
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Embedding, Quantize, Rounding
from pipeline.core.tables.formats import Weights
from pipeline.graph import onnx_file
from pipeline.quantization.find import Weight, find
from pipeline.runtime.onnxruntime import OnnxRuntime
from tests.support.architectures import mostly_slow
from tests.support.points import build_once
from tests.support.quantized import (
    GATES,
    INT4,
    INT4_OFFSET,
    INT8,
    TIED,
    assert_right,
    quantized,
    random_blocks,
    stored,
    with_weights,
    write_gguf,
)

Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0 = (
    GGMLQuantizationType[name] for name in ("Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
)
# blocks of a K-quant have 256 values
WIDE = [
    f"model.config.{key}" for key in ("hidden_size=256", "intermediate_size=256", "head_dim=64", "num_hidden_layers=1")
]
PROJECTIONS = [f"model.layers.0.{name}.weight" for name in ("self_attn.o_proj", "mlp.gate_up_proj")]
COUNTS = {"q": 64, "u": 128, "g": 128, "e": 512}  # rows of these and of the embedding


def test_no_block_fits(tmp_path: Path) -> None:
    """A layer whose input 16 does not divide gets 8 bits per channel, and the report says so."""
    point = tmp_path / "point"
    contract = build_once(point, ["model.config.intermediate_size=120"])
    entries = quantized(point, INT4, tmp_path / "out")
    odd = [e for e in entries if "down_proj" in e.name]
    assert {(e.form, e.block) for e in odd} == {("linear, int8 per channel", 120)}
    assert_right(point, tmp_path / "out", contract, INT4, GATES)


def test_a_plain_checkpoint_needs_no_torch(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """Importing it takes 0.2 GB and more than a second: only packed checkpoints and calibration do."""
    config = tmp_path / "folder" / "config.json"
    config.parent.mkdir()
    config.write_text("{}")
    code = (
        "import sys; from pathlib import Path; from pipeline import quantize; from pipeline.graph import onnx_file\n"
        "from pipeline.core.schema import Embedding, Quantize, Rounding, Weights\n"
        "options = Quantize(Weights.int8, 0, True, Embedding.none, True, Rounding.nearest)\n"
        "rows = quantize.own_rows_of(Path(sys.argv[1]), 'float32')\n"
        "model = onnx_file.load(Path(sys.argv[2]))\n"
        "assert quantize.quantize(model, quantize.Quantizer(options, rows))\n"
        "print({'torch', 'transformers', 'onnxruntime'} & sys.modules.keys() or 'none')"
    )
    arguments = [sys.executable, "-c", code, config.parent, tiny[0] / layout.SIMPLIFIED]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "none\n"


def test_small_weights_stay(tiny: tuple[Path, GraphContract]) -> None:
    """What has less than 64 KiB, such as a router's weight, is not quantized by the stage itself."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    entries = quantize.quantize(model, quantize.Quantizer(INT8, lambda: None))
    assert (
        sorted(e.bytes_before for e in entries) == [256 * 64 * 4] * 2 + [512 * 64 * 4] * 2
    )  # those of 64 KiB and more


def test_nothing_to_quantize(tiny: tuple[Path, GraphContract]) -> None:
    """With quantize.weights=none the folder holds the report alone, and the simplified model goes on."""
    folder = tiny[0] / layout.QUANTIZED
    assert [path.name for path in folder.iterdir()] == [layout.QUANTIZATION]
    assert json.loads((folder / layout.QUANTIZATION).read_text())["weights"] == "none"
    assert layout.final_model(tiny[0]).name == layout.SIMPLIFIED


@pytest.mark.parametrize("precision", mostly_slow(["fp32", "fp16"], "fp32"))
def test_blocks_of_a_gguf_file_are_carried_over(precision: str, tmp_path: Path) -> None:
    """Q4_0, Q4_1 and Q8_0, found in whatever order the rows are; other weights of the model are rounded anew."""
    build_once(tmp_path / "built", [f"precision={precision}", *TIED])
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(0, 0.2, (n, 64)).astype(np.float32) for name, n in COUNTS.items()}
    kinds = {
        "q": Q4_0,
        "u": Q4_1,
        "g": Q4_1,
        "e": Q8_0,
    }
    write_gguf(tmp_path / "model.gguf", {f"{name}.weight": (rows[name], kinds[name]) for name in rows})
    q, u, g, e = (stored(rows[name], kinds[name]) for name in COUNTS)
    projections = (q[rng.permutation(64)].T, np.concatenate([g, u]).T)
    numbers = dict(zip(PROJECTIONS, projections, strict=True)) | {"lm_head.weight": e}
    point = with_weights(tmp_path / "built", numbers, tmp_path / "point")

    entries = {e.name: e for e in quantized(point, INT4_OFFSET, tmp_path / "out", tmp_path / "model.gguf")}
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
    file = gguf.quants.quantize(np.concatenate([rows["g"], rows["u"]]), Q4_1).reshape(256, 2, 20)
    d, m = (file[:, :, i : i + 2].copy().view(np.float16)[:, :, 0].astype(np.float32) for i in (0, 2))
    np.testing.assert_array_equal(scale.T, d)
    np.testing.assert_array_equal(center.T, (m + 8 * d).astype(center.dtype))
    np.testing.assert_array_equal(ints.T.reshape(256, 2, 32)[:, :, :16].astype(np.int8) + 8, file[:, :, 4:] & 15)


def test_kinds_of_more_bits_are_carried_over_in_8(tmp_path: Path) -> None:
    """A file in Q4_K_M has Q4_K, Q5_K and Q6_K side by side, and the embedding in one of them: with int4 all keep their
    numbers, in 4 or 8 bits, and the graph gives the logits of these numbers."""
    contract = build_once(tmp_path / "built", WIDE, simplify)
    parts = {  # of each weight: rows and their kind in the file
        "self_attn.qkv_proj": [(256, Q4_K), (128, Q5_K), (128, Q6_K)],
        "self_attn.o_proj": [(256, Q4_K)],
        "mlp.gate_up_proj": [(256, Q4_K), (256, Q6_K)],
        "mlp.down_proj": [(256, Q5_K)],
        "lm_head": [(512, Q6_K)],
        "model.embed_tokens": [(512, Q4_K)],
    }
    numbers: dict[str, np.ndarray] = {}
    file: dict[str, tuple[np.ndarray, GGMLQuantizationType]] = {}
    for module, kinds in parts.items():
        name = f"model.layers.0.{module}.weight" if "_proj" in module else f"{module}.weight"
        data = [(random_blocks(n, 256, kind, seed=len(file) + i), kind) for i, (n, kind) in enumerate(kinds)]
        file |= {f"{name}.{i}": part for i, part in enumerate(data)}
        rows = np.concatenate([gguf.quants.dequantize(*part) for part in data])
        numbers[name] = rows if "embed" in module else rows.T
    write_gguf(tmp_path / "model.gguf", file)
    point = with_weights(tmp_path / "built", numbers, tmp_path / "point")

    entries = {e.name: e for e in quantized(point, INT4_OFFSET, tmp_path / "out", tmp_path / "model.gguf")}
    assert {(e.exact, e.rms) for e in entries.values()} == {(e.rows, 0) for e in entries.values()}
    assert [(entries[name].form, entries[name].stored_as) for name in numbers] == [
        ("linear, int8 blocks of 16 with a center", "Q4_K, Q5_K, Q6_K"),
        ("linear, int4 blocks of 32 with a center", "Q4_K"),
        ("linear, int8 blocks of 16 with a center", "Q4_K, Q6_K"),
        ("linear, int8 blocks of 32 with a center", "Q5_K"),
        ("linear, int8 blocks of 16", "Q6_K"),
        ("table, int8 blocks of 32 with a center", "Q4_K"),
    ]
    tokens = np.random.default_rng(0).integers(0, 512, (2, 16)).tolist()
    want, got = (
        OnnxRuntime(folder / layout.MODEL, contract, Profiles.of_axes(contract)).session(2).step(tokens)
        for folder in (point / layout.SIMPLIFIED, tmp_path / "out")
    )
    np.testing.assert_allclose(got, want, atol=np.abs(want).max() * 1e-4)


@pytest.mark.parametrize(
    ("weights", "kind", "tied", "form"),
    [
        (Weights.int8, Q6_K, None, "linear, int8 blocks of 16"),
        (Weights.int8, Q4_K, None, "linear, int8 per channel"),  # as asked for: one scale a channel is faster
        (Weights.int8, Q4_K, False, "table, int8 blocks of 32 with a center"),
        (Weights.int8, Q4_K, True, "table, int8 per row"),  # rounded anew, as it is multiplied as well
        (Weights.fp8, Q6_K, None, "linear, float8_e4m3fn per channel"),
    ],
)
def test_what_is_carried_over_depends_on_what_was_asked_for(
    weights: Weights, kind: GGMLQuantizationType, tied: bool | None, form: str, tmp_path: Path
) -> None:
    """Integers that 8 bits are asked for are not given fewer; a table that is the LM head as well has no offsets."""
    data = random_blocks(20, 256, kind)
    write_gguf(tmp_path / "a.gguf", {"a": (data, kind)})
    rows = gguf.quants.dequantize(data, kind)
    value = ir.Value(name="w", const_value=ir.tensor(rows))
    operators = [] if tied is None else ["Gather", "Transpose"] if tied else ["Gather"]
    readers = tuple(ir.Node("", operator, [value]) for operator in operators)
    options = Quantize(weights, 0, True, Embedding.int8, True, Rounding.nearest)
    quantizer = quantize.Quantizer(options, quantize.own_rows_of(tmp_path / "a.gguf", np.float32))
    (plan,) = quantizer.plan([Weight(value, readers, tied is not None, False, True)])
    _, entry = quantizer.quantize(plan, {})
    assert entry.form == form
    assert entry.carried_over == (20 if "blocks" in form else 0)


@pytest.mark.parametrize(
    ("weights", "kind", "form"),
    [
        (Weights.int4, Q4_0, "experts, int4 blocks of 32"),
        (Weights.int8, Q6_K, "experts, int8 blocks of 16"),
        (Weights.int4, Q6_K, None),  # the other product of the experts may have 4 bits
        (Weights.int4, Q4_K, None),  # no form with offsets
    ],
)
def test_experts_are_carried_over(
    weights: Weights, kind: GGMLQuantizationType, form: str | None, tmp_path: Path
) -> None:
    """A stack [experts, K, N] has the rows of the file's tensor [experts, N, K]."""
    data = random_blocks(3 * 20, 256, kind)
    write_gguf(tmp_path / "a.gguf", {"ffn_up_exps": (data.reshape(3, 20, -1), kind)})
    stack = gguf.quants.dequantize(data, kind).reshape(3, 20, 256).swapaxes(1, 2)
    value = ir.Value(name="w", const_value=ir.tensor(np.ascontiguousarray(stack)))
    options = Quantize(weights, 32, True, Embedding.none, True, Rounding.nearest)
    quantizer = quantize.Quantizer(options, quantize.own_rows_of(tmp_path / "a.gguf", np.float32))
    (plan,) = quantizer.plan([Weight(value, (), False, False, False, is_stack=True)])
    _, entry = quantizer.quantize(plan, {})
    assert (entry.exact, entry.form == form) == ((60, True) if form else (0, False))


def test_packed_rows_are_carried_over_in_part(tmp_path: Path) -> None:
    """A packed weight with rows of two tensors and a few that are in no file: those few are rounded anew."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (60, 64)).astype(np.float32)
    write_gguf(
        tmp_path / "a.gguf",
        {"a": (rows[:30], Q4_1), "b": (rows[30:50], Q4_0)},
    )
    packed = np.concatenate([stored(rows[:30], Q4_1), stored(rows[30:50], Q4_0), rows[50:]])
    packed = packed[rng.permutation(60)]
    library = quantize.own_rows_of(tmp_path / "a.gguf", np.float32)
    options = Quantize(Weights.int4, 64, True, Embedding.none, True, Rounding.nearest)
    value = ir.Value(name="w", const_value=ir.tensor(packed))
    quantizer = quantize.Quantizer(options, library)
    (plan,) = quantizer.plan([Weight(value, (), False, False, True)])
    grid, entry = quantizer.quantize(plan, {})
    assert (entry.carried_over, entry.exact, entry.block) == (50, 50, 32)
    assert np.abs(grid.values() - packed).max() < 0.05


def test_blocks_that_are_carried_over_need_no_text(tiny: tuple[Path, GraphContract], tmp_path: Path) -> None:
    """GPTQ asks for the inputs of the weights that it rounds, and for none where all come from the file."""
    asked: list[set[str]] = []

    def hessians(names: set[str]) -> dict[str, np.ndarray]:
        asked.append(names)
        return {name: np.eye(64, dtype=np.float32) for name in names}

    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (256, 64)).astype(np.float32)
    write_gguf(tmp_path / "model.gguf", {"u": (rows, Q4_1)})
    own = stored(rows, Q4_1)
    some = np.concatenate([own[:200], rows[200:]])
    names = [f"model.layers.{layer}.mlp.gate_up_proj.weight" for layer in (0, 1)]
    point = with_weights(tiny[0], dict.fromkeys(names, own.T), tmp_path / "whole")
    part = with_weights(tiny[0], dict(zip(names, (own.T, some.T), strict=True)), tmp_path / "part")
    options = Quantize(Weights.int4, 32, False, Embedding.none, True, Rounding.gptq)
    for folder in (point, part):
        model = onnx_file.load(folder / layout.SIMPLIFIED)
        found = [w for w in find(model.graph, 0) if w.value.name in names]
        quantizer = quantize.Quantizer(options, quantize.own_rows_of(tmp_path / "model.gguf", np.float32), hessians)
        plans = quantizer.plan(found)
        known = quantizer.hessians(plans)
        entries = [quantizer.quantize(plan, known)[1] for plan in plans]
        assert sorted(entry.carried_over for entry in entries) == [256 if folder is point else 200, 256]
    (inputs,) = asked
    assert inputs == next(plan.inputs for plan in plans if plan.weight.value.name == names[1])


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
