"""The lowered graph: ONNX Runtime's own operators, the same numbers, and only the used part of the cache read."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends.onnxruntime.linear import EXACT, lower_linear, pack
from pipeline.backends.onnxruntime.lower import lower
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.graph import onnx_file
from pipeline.graph.editor import Editor
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine
from tests.support.architectures import mostly_slow, random_model
from tests.support.points import build_once

WIDE = {"intermediate_size": 512, "vocab_size": 512}  # weights of 64 KiB and more are quantized


def operators(folder: Path) -> Counter[str]:
    """Nodes per operator type."""
    return Counter(n.op_type for n in onnx.load(folder / layout.MODEL, load_external_data=False).graph.node)


def test_a_layer_becomes_ten_nodes(tiny: tuple[Path, GraphContract]) -> None:
    """Nothing is left of rotary embeddings, writes and transposes; the portable graph is as it was."""
    folder, contract = tiny
    layers = len(contract.caches) // 2
    lowered, portable = (operators(folder / artifact) for artifact in (layout.ENGINE, layout.SIMPLIFIED))
    assert lowered["GroupQueryAttention"] == lowered["QuickGelu"] == layers
    assert lowered["SkipSimplifiedLayerNormalization"] == 2 * layers
    assert not {"Attention", "TensorScatter", "RotaryEmbedding", "Transpose", "Reshape", "Sigmoid"} & set(lowered)
    assert sum(lowered.values()) <= 12 * layers + 20
    assert portable["Attention"] == layers


def assert_no_answer_changed(folder: Path, artifact: str, contract: GraphContract, atol: float = 1e-5) -> None:
    """Ragged prefill, a ragged chunk after it and decode: the engine's logits are those of the graph it was made of."""
    steps = ([[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10]], [[11], [12]], [[], [13]])
    plain = OnnxRuntime(folder / artifact / layout.MODEL, contract, Profiles.of_axes(contract))
    sessions = [runtime.session(2) for runtime in (plain, open_engine(folder / layout.ENGINE))]
    for tokens in steps:
        want, got = (session.step(tokens) for session in sessions)
        active = [row for row, new in enumerate(tokens) if new]
        np.testing.assert_allclose(got[active], want[active], atol=atol)


def test_lowering_changes_no_answer(tiny: tuple[Path, GraphContract]) -> None:
    """An engine without the lowering gives the same."""
    assert_no_answer_changed(tiny[0], layout.SIMPLIFIED, tiny[1])


@pytest.mark.parametrize("architecture", mostly_slow(["llama", "qwen3"], "llama"))
def test_queries_are_scaled_ahead_of_quantized_weights(architecture: str, tmp_path: Path) -> None:
    """By a Mul in the place of the kernel's slower scale; packed projections or not, the numbers stay."""
    options = ["precision=int8", "quantize.rounding=nearest", "engine.int8_activations=false"]
    contract = build_once(tmp_path, options, model=random_model(architecture, **WIDE))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    scales = [a.f for n in nodes if n.op_type == "GroupQueryAttention" for a in n.attribute if a.name == "scale"]
    assert scales == [1.0] * len(scales) != []
    assert_no_answer_changed(tmp_path, layout.QUANTIZED, contract, atol=5e-5)  # of MatMulNBits, not of the scale


def test_slots_beyond_the_used_ones_are_not_read(tiny: tuple[Path, GraphContract]) -> None:
    """NaN in every unused slot changes no logit: what is not read cannot cost time either."""
    folder, _ = tiny
    answers = []
    for filling in (0.0, np.nan):
        session = open_engine(folder / layout.ENGINE).session(2)
        for cache in session.caches:
            cache[...] = filling
        answers.append([session.step(tokens) for tokens in ([[1, 2, 3], [4]], [[5], [6]], [[7], [8, 9]])])
    np.testing.assert_array_equal(answers[0], answers[1])


def test_head_sizes_without_a_kernel_stay_standard(tmp_path: Path) -> None:
    """GroupQueryAttention takes multiples of 16; GPT-2's tiny heads of 8 keep the standard Attention."""
    build_once(tmp_path, [], model=random_model("gpt2"))
    assert operators(tmp_path / layout.ENGINE)["Attention"] == 3


def test_lowering_can_be_switched_off(tmp_path: Path) -> None:
    """engine.lower=false leaves the portable graph as it is."""
    build_once(tmp_path, ["engine.lower=false"])
    assert operators(tmp_path / layout.ENGINE) == operators(tmp_path / layout.SIMPLIFIED)


@given(st.integers(1, 5), st.integers(1, 70), st.sampled_from([16, 32]), st.sampled_from([4, 8]), st.integers(0, 99))
def test_packing_keeps_every_value(outputs: int, width: int, block: int, bits: int, seed: int) -> None:
    """Unpacked by the definition of MatMulNBits, the integers are those that went in; the rest of a block is zero."""
    middle = 1 << (bits - 1)
    values = np.random.default_rng(seed).integers(-middle, middle, (outputs, width)).astype(np.int8)
    packed = pack(values, block, bits)
    assert packed.shape == (outputs, -(-width // block), block * bits // 8)
    rows = packed.reshape(outputs, -1)
    unsigned = rows if bits == 8 else np.stack([rows & 15, rows >> 4], -1).reshape(outputs, -1)
    signed = unsigned.astype(np.int16) - middle
    np.testing.assert_array_equal(signed[:, :width], values)
    assert not signed[:, width:].any()


@pytest.mark.parametrize("form", ["int8 per channel", "int8 blocks", "int4 blocks", "int8 rows", "int8 blocks of rows"])
def test_quantized_products_are_lowered_exactly(form: str) -> None:
    """MatMulNBits without rounded activations gives what DequantizeLinear and MatMul give, for each standard form."""
    bits = 4 if "int4" in form else 8
    rows = "rows" in form
    width, outputs, block = 96, 40, 32 if "blocks" in form else 96
    rng = np.random.default_rng(0)
    values = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (outputs, width)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (outputs, width // block)).astype(np.float32)
    x = rng.standard_normal((2, 3, width)).astype(np.float32)
    want = x @ (values * scale.repeat(block, 1)).T
    model = _product(values, scale, bits, rows, block)
    (plain,) = _run(model, x)
    np.testing.assert_allclose(plain, want, atol=1e-4)
    lowered = ir.from_proto(model)
    _lower_products(lowered, 0)
    assert [node.op_type for node in lowered.graph] == ["MatMulNBits"]
    (got,) = _run(ir.to_proto(lowered), x)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_digits_take_back_what_rounding_costs() -> None:
    """A product of inputs rounded to 8 bits is 0.2 % off; with the rest as rows of their own a hundredth of that, and
    with the rest of that too, what float32 is: in blocks of zeros and in those with one large number as well."""
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (40, 96)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (40, 3)).astype(np.float32)
    x = rng.standard_normal((2, 3, 96)).astype(np.float32)
    x[0, 1, :32], x[1, 2, 40] = 0, 100
    want = x.astype(np.float64) @ (values * scale.repeat(32, 1)).T.astype(np.float64)
    off = []
    for digits in (1, 2, EXACT):
        lowered = ir.from_proto(_product(values, scale, 8, True, 32))
        _lower_products(lowered, digits)
        (got,) = _run(ir.to_proto(lowered), x)
        off.append(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))
    assert 1e-3 < off[0] < 2e-2
    assert off[1] < off[0] / 50
    assert off[2] < 1e-6


@pytest.mark.parametrize(("bits", "width", "level"), [(8, 64, 4), (4, 64, 0), (8, 40, 0)])
def test_exact_products_take_the_fastest_kernel_that_is_exact(bits: int, width: int, level: int) -> None:
    """In 8 bits digits, where blocks fill the rows; in 4 bits the kernel that does not round."""
    values = np.random.default_rng(0).integers(-8, 8, (40, width)).astype(np.int8)
    lowered = ir.from_proto(_product(values, np.ones((40, 1), np.float32), bits, False, width))
    _lower_products(lowered, EXACT)
    (product,) = (node for node in lowered.graph if node.op_type == "MatMulNBits")
    assert product.attributes["accuracy_level"].value == level
    assert [n.op_type for n in lowered.graph].count("Round") == (EXACT - 1 if level else 0)


@pytest.mark.parametrize(("cuda", "digits"), [(False, EXACT), (True, 0)])
def test_activations_that_are_not_rounded(cuda: bool, digits: int, tmp_path: Path) -> None:
    """engine.int8_activations=false: on the CPU every product of 8 bits is given digits, attention's output included;
    on CUDA, whose kernels round nothing, none."""
    options = ["precision=int8", "quantize.rounding=nearest", "engine.int8_activations=false"]
    contract = build_once(tmp_path, options, model=random_model("llama", **WIDE))
    assert_no_answer_changed(tmp_path, layout.QUANTIZED, contract, atol=5e-5)  # sums in another order
    model = onnx_file.load(tmp_path / layout.QUANTIZED)
    lower(model, int8_activations=False, cuda=cuda)
    products = [node for node in model.graph if node.op_type == "MatMulNBits"]
    assert {node.attributes["accuracy_level"].value for node in products} == {4 if digits else 0}
    rounded = [node for node in model.graph if node.op_type == "Round"]
    assert len(rounded) == max(0, digits - 1) * len(products) != len(products)


@pytest.mark.parametrize("tied", [{"tie_word_embeddings": True}, {}], ids=["tied", "untied"])
def test_the_head_alone_has_two_rows(tied: dict[str, bool], tmp_path: Path) -> None:
    """Its own rounding is a third of what all rounded activations cost; the other products would double the nodes."""
    options = ["precision=int8", "quantize.rounding=nearest"]
    build_once(tmp_path, options, model=random_model("llama", **WIDE, **tied))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    products = {n.name: n for n in nodes if n.op_type == "MatMulNBits"}
    doubled = [n.input[0] for n in nodes if n.op_type == "Split" and n.name.startswith("lm_head")]
    assert doubled == [products["lm_head.MatMulNBits"].output[0]]
    assert [n.op_type for n in nodes].count("Round") == 1


def _lower_products(model: ir.Model, digits: int) -> None:
    editor = Editor(model)
    for node in editor.nodes("MatMul"):
        lower_linear(editor, node, digits=digits)
    model.opset_imports["com.microsoft"] = 1
    editor.finish()


def _product(values: np.ndarray, scale: np.ndarray, bits: int, rows: bool, block: int) -> onnx.ModelProto:
    """x @ W.T with the weight as the portable graph holds it: [K, N], or rows of an embedding and a Transpose."""
    helper, kind = onnx.helper, onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT8
    stored, factors = (values, scale) if rows else (values.T, scale.T)
    per_channel = not rows and scale.shape[1] == 1
    where = {"axis": 1} if per_channel else {"axis": 1 if rows else 0, "block_size": block}
    weights = [
        helper.make_tensor("w", kind, stored.shape, stored.flatten()),
        onnx.numpy_helper.from_array(np.ascontiguousarray(factors[0] if per_channel else factors), "s"),
    ]
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"], **where)]
    nodes += [helper.make_node("Transpose", ["d"], ["t"], perm=[1, 0])] * rows
    nodes.append(helper.make_node("MatMul", ["x", "t" if rows else "d"], ["y"]))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "sequence", size])
        for name, size in (("x", values.shape[1]), ("y", values.shape[0]))
    ]
    body = helper.make_graph(nodes, "product", ends[:1], ends[1:], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


@pytest.mark.parametrize(("width", "block"), [(64, 32), (64, 64), (40, 40)])
def test_a_tied_embedding_is_stored_once(width: int, block: int) -> None:
    """Rows of a table that is the head as well come out of what the head was packed to, to the bit; where a row does
    not fill its blocks, the table stays beside it."""
    rng, helper = np.random.default_rng(0), onnx.helper
    values = rng.integers(-128, 128, (50, width)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (50, width // block)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["rows"]),
        helper.make_node("Gather", ["s", "ids"], ["factors"]),
        helper.make_node("DequantizeLinear", ["rows", "factors"], ["x"], axis=-1, block_size=block),
        helper.make_node("DequantizeLinear", ["w", "s"], ["whole"], axis=1, block_size=block),
        helper.make_node("Transpose", ["whole"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"]),
    ]
    ends = {"ids": onnx.TensorProto.INT64, "x": onnx.TensorProto.FLOAT, "y": onnx.TensorProto.FLOAT}
    shapes = {"ids": ["batch", "sequence"], "x": ["batch", "sequence", width], "y": ["batch", "sequence", 50]}
    ids, *outputs = (helper.make_tensor_value_info(name, kind, shapes[name]) for name, kind in ends.items())
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in (("w", values), ("s", scale))]
    body = helper.make_graph(nodes, "tied", [ids], outputs, weights)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    lowered = ir.from_proto(model)
    lower(lowered, int8_activations=False)
    tokens = rng.integers(0, 50, (2, 3))
    want, got = (_run(which, tokens, "ids") for which in (model, ir.to_proto(lowered)))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(got[1], want[1], atol=1e-4)
    assert ("w" in lowered.graph.initializers) == (width % 32 != 0)


def _run(model: onnx.ModelProto, x: np.ndarray, name: str = "x") -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # its fusion rounds inputs
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: x}))


def test_lowering_does_not_touch_weights(tiny: tuple[Path, GraphContract]) -> None:
    """Every weight that is stored in the file is still the same part of the same file."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    before = {v.name: v.const_value for v in model.graph.initializers.values()}
    lower(model, int8_activations=True)
    for name, value in model.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            assert value.const_value is before[name]
