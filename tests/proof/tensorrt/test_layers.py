"""layers: each kind of layer by itself, beside numpy's way to write it; what is not known is refused."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.proof.tensorrt.layers import LAYERS, rounded
from tests.support.tensorrt import rtx

Value = torch.Tensor


@pytest.fixture(scope="module")
def trt() -> Any:
    """TensorRT's module, of which the layers take their enums."""
    return rtx().trt


def run(trt: Any, kind: str, *operands: Value | None, **options: Any) -> Any:
    """What a layer with these options computes of its operands."""
    return LAYERS[kind](trt, SimpleNamespace(name="a layer", **options), *operands)


def numbers(*shape: int, seed: int = 0) -> Value:
    """Random numbers."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def ints(*values: int) -> Value:
    """A tensor of whole numbers."""
    return torch.tensor(values, dtype=torch.int64)


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        ("float32", 0.1, np.float32(0.1)),
        ("float16", 0.1, np.float16(0.1)),
        ("bfloat16", 1.01, 1.0078125),
        ("int64", 2.7, 2),
        ("bool", 3.0, True),
    ],
)
def test_results_are_rounded_to_the_layer_s_type(dtype: str, value: float, wanted: float) -> None:
    """And floats come back in fp32."""
    result = rounded(torch.tensor([value]), dtype)
    assert result.item() == pytest.approx(wanted, rel=0, abs=0)
    assert not result.is_floating_point() or result.dtype == torch.float32


def test_small_constants_stay_as_they_are() -> None:
    """They are exact in the wider type that holds them."""
    for dtype in ("float8_e4m3fn", "float4_e2m1fn"):
        assert rounded(torch.tensor([0.1]), dtype).item() == pytest.approx(0.1)
    assert rounded(torch.tensor([-8, 7]), "int4").tolist() == [-8, 7]


def test_shapes(trt: Any) -> None:
    """Squeeze, unsqueeze, concatenation, and the shape as a tensor."""
    value = numbers(2, 1, 3, 1)
    assert run(trt, "IShapeLayer", value).tolist() == [2, 1, 3, 1]
    assert run(trt, "ISqueezeLayer", value).shape == (2, 3)
    assert run(trt, "ISqueezeLayer", value, ints(-1)).shape == (2, 1, 3)
    assert run(trt, "IUnsqueezeLayer", numbers(2, 3), ints(0, -1)).shape == (1, 2, 3, 1)
    assert run(trt, "IConcatenationLayer", numbers(2, 3), numbers(2, 1), axis=1).shape == (2, 4)


@pytest.mark.parametrize(
    ("dims", "sizes", "zero", "shape"),
    [((0, -1), None, True, (2, 12)), ((9, 9), (6, 4), True, (6, 4)), (None, None, True, (2, 4, 3))],
)
def test_shuffle_turns_reshapes_and_turns(
    trt: Any, dims: tuple[int, ...] | None, sizes: tuple[int, ...] | None, zero: bool, shape: tuple[int, ...]
) -> None:
    """0 is the size that is there; a tensor of sizes counts before the layer's own."""
    value = numbers(2, 3, 4)
    result = run(
        *(trt, "IShuffleLayer", value, None if sizes is None else ints(*sizes)),
        first_transpose=(0, 2, 1, 3, 4, 5, 6, 7),
        second_transpose=tuple(range(8)),
        reshape_dims=dims,
        zero_is_placeholder=zero,
    )
    np.testing.assert_array_equal(result, value.numpy().transpose(0, 2, 1).reshape(shape))


def cut(trt: Any, value: Value, *given: Value | None, **changes: Any) -> Value:
    """A slice of a layer whose own numbers are overridden by tensors."""
    options = {"start": (0, 0), "shape": (2, 2), "stride": (1, 1), "axes": None, "mode": trt.SampleMode.STRICT_BOUNDS}
    return run(trt, "ISliceLayer", value, *given, **options | changes)


def test_slices(trt: Any) -> None:
    """Start, size and stride of each axis, or of those that are named; stride 0 repeats, mode WRAP begins again."""
    value = torch.arange(20).reshape(4, 5)
    assert cut(trt, value, start=(1, 0), stride=(2, 3)).tolist() == [[5, 8], [15, 18]]
    assert cut(trt, value, ints(2, 1)).tolist() == [[11, 12], [16, 17]]
    assert cut(trt, value, ints(4), ints(2), ints(0), None, ints(1)).tolist() == [[4, 4], [9, 9], [14, 14], [19, 19]]
    assert cut(trt, value, shape=(1, 7), mode=trt.SampleMode.WRAP).tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    with pytest.raises(ValueError, match="past the end of axis 1"):
        cut(trt, value, start=(0, 4))
    with pytest.raises(NotImplementedError, match="strides"):
        cut(trt, value, start=(3, 0), stride=(-1, 1))
    with pytest.raises(NotImplementedError, match="a slice by"):
        cut(trt, value, mode=trt.SampleMode.CLAMP)


def test_gather(trt: Any) -> None:
    """Rows of an axis by indices of any shape, negative ones from its end; or one number for each index."""
    value, indices = numbers(3, 4, 2), ints(2, -4, 0, 1).reshape(2, 2)
    rows = run(trt, "IGatherLayer", value, indices, axis=1, mode=trt.GatherMode.DEFAULT, num_elementwise_dims=0)
    np.testing.assert_array_equal(rows, np.take(value.numpy(), indices.numpy(), axis=1))
    each = torch.zeros(3, 1, 2, dtype=torch.int64)
    found = run(trt, "IGatherLayer", value, each, axis=1, mode=trt.GatherMode.ELEMENT, num_elementwise_dims=0)
    np.testing.assert_array_equal(found, value[:, :1])
    for options in ({"mode": trt.GatherMode.ND}, {"mode": trt.GatherMode.DEFAULT, "num_elementwise_dims": 1}):
        with pytest.raises(NotImplementedError, match="elementwise dims"):
            run(trt, "IGatherLayer", value, indices, **{"axis": 1, "num_elementwise_dims": 0} | options)


def test_fill_counts(trt: Any) -> None:
    """From the layer's own numbers, or from tensors."""
    linear = {"operation": trt.FillOperation.LINSPACE, "shape": (4,), "alpha": 2.0, "beta": 0.5}
    assert run(trt, "IFillLayer", **linear).tolist() == [2.0, 2.5, 3.0, 3.5]
    assert run(trt, "IFillLayer", ints(3), torch.tensor(7), ints(2), **linear).tolist() == [7, 9, 11]
    with pytest.raises(NotImplementedError, match="2 axes"):
        run(trt, "IFillLayer", **linear | {"shape": (4, 4)})


OPERATIONS = {
    "SUM": np.add, "SUB": np.subtract, "PROD": np.multiply, "DIV": np.divide, "POW": np.power, "MAX": np.maximum,
    "MIN": np.minimum, "FLOOR_DIV": np.floor_divide, "EQUAL": np.equal, "LESS": np.less, "GREATER": np.greater,
}  # fmt: skip
UNARY = {
    "ABS": np.abs, "NEG": np.negative, "SQRT": np.sqrt, "EXP": np.exp, "LOG": np.log, "SIN": np.sin, "COS": np.cos,
    "FLOOR": np.floor, "CEIL": np.ceil, "ROUND": np.round, "SIGN": np.sign, "RECIP": np.reciprocal,
    "ERF": np.vectorize(math.erf),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_elementwise(trt: Any, name: str) -> None:
    """Of two tensors, one of them with an axis of 1."""
    a, b = numbers(3, 4).abs() + 0.5, numbers(1, 4, seed=1).abs() + 0.5
    result = run(trt, "IElementWiseLayer", a, b, op=getattr(trt.ElementWiseOperation, name))
    np.testing.assert_allclose(result, OPERATIONS[name](a.numpy(), b.numpy()), rtol=1e-6)


@given(st.integers(-9, 9), st.integers(-9, 9).filter(bool))
def test_whole_numbers_are_divided_towards_zero(a: int, b: int) -> None:
    """As in C, and unlike numpy."""
    trt = rtx().trt
    assert run(trt, "IElementWiseLayer", ints(a), ints(b), op=trt.ElementWiseOperation.DIV).item() == int(a / b)


@pytest.mark.parametrize("name", UNARY)
def test_unary(trt: Any, name: str) -> None:
    """Of each number by itself."""
    value = numbers(3, 4).abs() + 0.25
    value = value if name in ("SQRT", "LOG") else value * torch.tensor([1, -1, 2, -2])
    result = run(trt, "IUnaryLayer", value, op=getattr(trt.UnaryOperation, name))
    np.testing.assert_allclose(result, UNARY[name](value.numpy()), rtol=2e-6, atol=1e-7)


def test_logic(trt: Any) -> None:
    """And, or, xor, not; one of two values for each truth."""
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    for name, wanted in (("AND", a & b), ("OR", a | b), ("XOR", a ^ b)):
        assert run(trt, "IElementWiseLayer", a, b, op=getattr(trt.ElementWiseOperation, name)).equal(wanted)
    assert run(trt, "IUnaryLayer", a, op=trt.UnaryOperation.NOT).equal(~a)
    assert run(trt, "ISelectLayer", a, ints(1), ints(2)).tolist() == [1, 1, 2, 2]


def test_activations(trt: Any) -> None:
    """By their formulas; any other is refused."""
    x = numbers(20).numpy()
    erf = np.vectorize(math.erf)
    formulas = {
        "RELU": np.maximum(x, 0),
        "SIGMOID": 1 / (1 + np.exp(-x)),
        "TANH": np.tanh(x),
        "GELU_ERF": x / 2 * (1 + erf(x / math.sqrt(2))),
        "GELU_TANH": x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    }
    for name, wanted in formulas.items():
        kind = getattr(trt.ActivationType, name)
        np.testing.assert_allclose(run(trt, "IActivationLayer", torch.from_numpy(x), type=kind), wanted, atol=1e-6)
    alpha, beta = 0.3, 0.6
    scaled = {
        "SOFTPLUS": alpha * np.log(1 + np.exp(beta * x)),
        "SOFTSIGN": x / (1 + abs(x)),
        "LEAKY_RELU": np.where(x > 0, x, alpha * x),
        "ELU": np.where(x > 0, x, alpha * (np.exp(x) - 1)),
        "HARD_SIGMOID": (alpha * x + beta).clip(0, 1),
    }
    for name, wanted in scaled.items():
        options = {"type": getattr(trt.ActivationType, name), "alpha": alpha, "beta": beta}
        np.testing.assert_allclose(run(trt, "IActivationLayer", torch.from_numpy(x), **options), wanted, atol=1e-6)
    clipped = run(trt, "IActivationLayer", torch.from_numpy(x), type=trt.ActivationType.CLIP, alpha=-0.5, beta=1.0)
    np.testing.assert_allclose(clipped, x.clip(-0.5, 1.0))
    with pytest.raises(NotImplementedError, match="SELU"):
        run(trt, "IActivationLayer", numbers(2), type=trt.ActivationType.SELU)


@pytest.mark.parametrize("name", ["SUM", "AVG", "MAX", "MIN"])
@pytest.mark.parametrize("keep", [True, False])
def test_reduce(trt: Any, name: str, keep: bool) -> None:
    """Over the axes of a bit mask."""
    value = numbers(2, 3, 4)
    op = getattr(trt.ReduceOperation, name)
    result = run(trt, "IReduceLayer", value, op=op, axes=0b101, keep_dims=keep)
    reduce = {"SUM": np.sum, "AVG": np.mean, "MAX": np.max, "MIN": np.min}[name]
    np.testing.assert_allclose(result, reduce(value.numpy(), axis=(0, 2), keepdims=keep), rtol=1e-5)


def test_running_sums(trt: Any) -> None:
    """Along an axis, the number at each place included; other running results are refused."""
    value, options = numbers(2, 5), {"op": trt.CumulativeOperation.SUM, "exclusive": False, "reverse": False}
    found = run(trt, "ICumulativeLayer", value, torch.tensor(1), **options)
    np.testing.assert_allclose(found, np.cumsum(value.numpy(), 1), rtol=1e-5)
    with pytest.raises(NotImplementedError, match="exclusive"):
        run(trt, "ICumulativeLayer", value, torch.tensor(1), **options | {"exclusive": True})


def test_scatter(trt: Any) -> None:
    """Numbers go to places along an axis, or rows to the places of their indices."""
    given = (torch.zeros(4), ints(2, 0), torch.tensor([5.0, 7.0]))
    found = run(trt, "IScatterLayer", *given, mode=trt.ScatterMode.ELEMENT, axis=0)
    assert found.tolist() == [7, 0, 5, 0]
    rows, places = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[2], [0]])
    found = run(trt, "IScatterLayer", torch.zeros(3, 2), places, rows, mode=trt.ScatterMode.ND, axis=0)
    assert found.tolist() == [[3, 4], [0, 0], [1, 2]]
    both = torch.tensor([[2, 1], [0, 0]])
    found = run(trt, "IScatterLayer", torch.zeros(3, 2), both, rows[0], mode=trt.ScatterMode.ND, axis=0)
    assert found.tolist() == [[2, 0], [0, 0], [0, 1]]


def test_topk(trt: Any) -> None:
    """Two results: the largest or smallest in order, and where they were; how many can be an operand."""
    value = torch.tensor([[1.0, 3.0, 2.0]])
    largest, where = run(trt, "ITopKLayer", value, op=trt.TopKOperation.MAX, axes=0b10, k=2)
    assert (largest.tolist(), where.tolist()) == ([[3, 2]], [[1, 2]])
    smallest, _ = run(trt, "ITopKLayer", value, torch.tensor(1), op=trt.TopKOperation.MIN, axes=0b10, k=2)
    assert smallest.tolist() == [[1]]


def test_softmax_and_normalization(trt: Any) -> None:
    """Along one axis; mean and variance over the axes of a bit mask."""
    value = numbers(2, 5)
    odds = np.exp(value.numpy())
    found = run(trt, "ISoftMaxLayer", value, axes=0b10)
    np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), rtol=1e-5)
    scale, bias = numbers(1, 5, seed=1), numbers(1, 5, seed=2)
    x = value.numpy()
    wanted = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * scale.numpy() + bias.numpy()
    found = run(trt, "INormalizationLayer", value, scale, bias, num_groups=1, axes=0b10, epsilon=1e-5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(NotImplementedError, match="2 groups"):
        run(trt, "INormalizationLayer", value, scale, bias, num_groups=2, axes=0b10, epsilon=1e-5)


def test_products(trt: Any) -> None:
    """Of matrices, turned or not; by an equation; a vector is refused."""
    plain, turned = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
    a, b = numbers(2, 3, 4), numbers(2, 5, 4, seed=1)
    wanted = np.einsum("bij,bkj->bik", a, b)
    np.testing.assert_allclose(run(trt, "IMatrixMultiplyLayer", a, b, op0=plain, op1=turned), wanted, atol=1e-5)
    np.testing.assert_allclose(run(trt, "IMatrixMultiplyLayer", a.mT, b.mT, op0=turned, op1=plain), wanted, atol=1e-5)
    np.testing.assert_allclose(run(trt, "IEinsumLayer", a, b, equation="bij,bkj->bik"), wanted, atol=1e-5)
    with pytest.raises(NotImplementedError, match="a vector"):
        run(trt, "IMatrixMultiplyLayer", a, b, op0=plain, op1=trt.MatrixOperation.VECTOR)


@pytest.mark.parametrize("width", [0, 4])
def test_rotary_turns_pairs(trt: Any, width: int) -> None:
    """Number i and number i + half of what is turned, by one angle; the rest stays."""
    value, angles = numbers(2, 3, 5, 8), numbers(2, 5, (width or 8) // 2, seed=1)
    options = {"rotary_embedding_dim": width, "interleaved": False}
    found = run(trt, "IRotaryEmbeddingLayer", value, angles.cos(), angles.sin(), **options).numpy()
    half = (width or 8) // 2
    pairs = value[..., :half].numpy() + 1j * value[..., half : 2 * half].numpy()
    turned = pairs * np.exp(1j * angles.numpy())[:, None]
    np.testing.assert_allclose(found[..., : 2 * half], np.concatenate([turned.real, turned.imag], -1), atol=1e-5)
    np.testing.assert_array_equal(found[..., 2 * half :], value[..., 2 * half :])
    for positions, interleaved in (([], True), ([ints(0)], False)):
        operands = (value, angles, angles, *positions)
        with pytest.raises(NotImplementedError, match="positions of its own"):
            run(trt, "IRotaryEmbeddingLayer", *operands, **options | {"interleaved": interleaved})


def test_cache_update_writes_from_each_row_s_start(trt: Any) -> None:
    """Into a copy; other slots stay."""
    cache, new = torch.zeros(2, 1, 6, 1), torch.ones(2, 1, 2, 1)
    written = run(trt, "IKVCacheUpdateLayer", cache, new, ints(0, 3), cache_mode=trt.KVCacheMode.LINEAR)
    assert written[:, 0, :, 0].tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0]]
    assert not cache.any()


def attended(trt: Any, causal: str, mask: Value | None, lengths: Value | None) -> tuple[Value, Value]:
    """Attention of 3 queries of 4 heads over 6 slots of 2, and the slots that each query saw: [2, 4, 3, 6].

    The values are one-hot, so that the result is the probabilities themselves.
    """
    attention = SimpleNamespace(
        name="attention",
        norm_op=trt.AttentionNormalizationOp.SOFTMAX,
        causal_kind=getattr(trt.CausalMaskKind, causal),
    )
    query, key = numbers(2, 4, 3, 8), numbers(2, 2, 6, 8, seed=1)
    values = torch.eye(6).expand(2, 2, 6, 6)
    found = run(trt, "IAttentionInputLayer", query, key, values, mask, lengths, attention=attention)
    scores = np.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(2, 1))
    odds = np.exp(scores) * (found.numpy() > 0)
    np.testing.assert_allclose(found, odds / odds.sum(-1, keepdims=True), atol=1e-5)
    return found, found > 0


@pytest.mark.parametrize(
    ("causal", "lengths", "ends"),
    [
        ("NONE", None, [[6, 6, 6], [6, 6, 6]]),
        ("NONE", (4, 6), [[4, 4, 4], [6, 6, 6]]),
        ("UPPER_LEFT", (4, 6), [[1, 2, 3], [1, 2, 3]]),
        ("LOWER_RIGHT", (4, 6), [[2, 3, 4], [4, 5, 6]]),
        ("LOWER_RIGHT", None, [[4, 5, 6], [4, 5, 6]]),
    ],
)
def test_attention_sees_the_right_slots(
    trt: Any, causal: str, lengths: tuple[int, ...] | None, ends: list[list[int]]
) -> None:
    """Each head of queries with its own head of keys; up to the row's length, and up to the query itself."""
    if not hasattr(trt.CausalMaskKind, causal):
        pytest.skip(f"this TensorRT has no CausalMaskKind.{causal}")
    _, seen = attended(trt, causal, None, None if lengths is None else ints(*lengths))
    wanted = torch.arange(6) < torch.tensor(ends)[:, None, :, None]
    assert seen.equal(wanted.expand(2, 4, 3, 6))


def test_attention_with_a_mask(trt: Any) -> None:
    """True where a query sees a slot; a mask of numbers is refused."""
    mask = torch.rand(2, 1, 3, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    mask[..., 0] = True
    _, seen = attended(trt, "NONE", mask, None)
    assert seen.equal(mask.expand(2, 4, 3, 6))
    with pytest.raises(NotImplementedError, match="a mask of"):
        attended(trt, "NONE", mask.float(), None)


@pytest.mark.parametrize(("scale", "wanted"), [
    (torch.tensor(2.0), [[2, 4, 6, 8], [10, 12, 14, 16]]),
    (torch.tensor([1.0, 10.0]), [[1, 2, 3, 4], [50, 60, 70, 80]]),
    (torch.tensor([[1.0, 10.0], [2.0, 20.0]]), [[1, 2, 30, 40], [10, 12, 140, 160]]),
])  # fmt: skip
def test_dequantize(trt: Any, scale: Value, wanted: list[list[int]]) -> None:
    """One scale for all, one for each row, one for each block of two; no zero points."""
    value = torch.arange(1, 9).reshape(2, 4).to(torch.int8)
    assert run(trt, "IDequantizeLayer", value, scale, torch.zeros(1), axis=0).tolist() == wanted
    with pytest.raises(NotImplementedError, match="zero points"):
        run(trt, "IDequantizeLayer", value, scale, torch.ones(1), axis=0)
