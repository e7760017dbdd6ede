"""Products with quantized weights as MatMulNBits: packed without loss, and as exact as wanted."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends.onnxruntime.attention import DOMAIN
from pipeline.backends.onnxruntime.linear import Activations, LinearLowering, pack, plan
from pipeline.backends.onnxruntime.lower import lower
from pipeline.graph.editor import Editor

PLANS = [
    # wanted, bits, whether the input can be split -> parts, accuracy_level
    (Activations.int8, 8, True, (1, 4)),
    (Activations.int8, 8, False, (1, 4)),
    (Activations.int8, 4, True, (1, 4)),
    (Activations.int16, 8, True, (2, 4)),
    (Activations.int16, 8, False, (1, 4)),
    (Activations.int16, 4, True, (2, 4)),
    (Activations.exact, 8, True, (3, 4)),
    (Activations.exact, 8, False, (1, 0)),
    (Activations.exact, 4, True, (1, 0)),
    (Activations.exact, 4, False, (1, 0)),
    (Activations.native, 8, True, (1, 0)),
    (Activations.native, 4, False, (1, 0)),
]


@pytest.mark.parametrize(("wanted", "bits", "splits", "then"), PLANS)
def test_the_fastest_kernel_that_is_exact_enough(
    wanted: Activations, bits: int, splits: bool, then: tuple[int, int]
) -> None:
    """What is asked to be exact never gets a kernel that rounds; only 8 bits are worth being split for it."""
    assert plan(wanted, bits, splits=splits) == then


@pytest.mark.parametrize(("bits", "width", "then"), [(8, 64, (3, 4)), (4, 64, (1, 0)), (8, 40, (1, 0))])
def test_a_plan_is_carried_out(bits: int, width: int, then: tuple[int, int]) -> None:
    """An input is split where blocks fill its rows, and the kernel gets the level of the plan."""
    values = np.random.default_rng(0).integers(-8, 8, (40, width)).astype(np.int8)
    lowered = ir.from_proto(_product(values, np.ones((40, 1), np.float32), bits, False, width))
    _lower_products(lowered, Activations.exact)
    (product,) = (node for node in lowered.graph if node.op_type == "MatMulNBits")
    assert product.attributes["accuracy_level"].value == then[1]
    assert [node.op_type for node in lowered.graph].count("Round") == then[0] - 1


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
    _lower_products(lowered, Activations.native)
    assert [node.op_type for node in lowered.graph] == ["MatMulNBits"]
    (got,) = _run(ir.to_proto(lowered), x)
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_parts_take_back_what_rounding_costs() -> None:
    """A product of inputs rounded to 8 bits is 0.2 % off; with the rounding error as a second part a hundredth of that,
    and with the error of that as a third, what float32 is: in blocks of zeros and with one large number as well."""
    rng = np.random.default_rng(0)
    values = rng.integers(-128, 128, (40, 96)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (40, 3)).astype(np.float32)
    x = rng.standard_normal((2, 3, 96)).astype(np.float32)
    x[0, 1, :32], x[1, 2, 40] = 0, 100
    want = x.astype(np.float64) @ (values * scale.repeat(32, 1)).T.astype(np.float64)
    off = []
    for wanted in (Activations.int8, Activations.int16, Activations.exact):
        lowered = ir.from_proto(_product(values, scale, 8, True, 32))
        _lower_products(lowered, wanted)
        (got,) = _run(ir.to_proto(lowered), x)
        off.append(np.sqrt(np.square(got - want).mean() / np.square(want).mean()))
    assert 1e-3 < off[0] < 2e-2
    assert off[1] < off[0] / 50
    assert off[2] < 1e-6


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


def _lower_products(model: ir.Model, wanted: Activations) -> None:
    editor = Editor(model)
    lowering = LinearLowering(editor)
    for node in editor.nodes("MatMul"):
        lowering.lower(node, wanted)
    model.opset_imports[DOMAIN] = 1
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


def _run(model: onnx.ModelProto, x: np.ndarray, name: str = "x") -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # its fusion rounds inputs
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {name: x}))
