"""Weights of quantized checkpoints, unpacked exactly: layers packed as the libraries' own sources pack them."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from pipeline.packed import layouts
from tests.support import packed

SHAPE = (64, 128)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"group": -1}, {"group": 64, "symmetric": True}, {"sorted_inputs": True}])
def test_gptq(bits: int, options: dict[str, Any]) -> None:
    """Both formats: the older one stores zero points minus 1. Inputs in order are told from sorted ones (desc_act)."""
    for older in (True, False):
        layer, weight = packed.gptq(SHAPE, bits=bits, older=older, **options)
        found = layouts.gptq(layouts.with_zeros_of_gptq_1(layer) if older else layer)
        np.testing.assert_array_equal(found.values(), weight.numpy())
        assert found.bits == bits
        assert found.in_order == ("sorted_inputs" not in options)


def test_gptq_of_the_first_releases_has_no_index() -> None:
    """Without g_idx inputs are in order."""
    layer, weight = packed.gptq(SHAPE)
    del layer["g_idx"]
    np.testing.assert_array_equal(layouts.gptq(layouts.with_zeros_of_gptq_1(layer)).values(), weight.numpy())


def test_zero_points_of_0_survive_the_older_format() -> None:
    """A word from which 1 was taken off everywhere has borrowed from its neighbours; adding gives it back."""
    layer, _ = packed.gptq(SHAPE, older=False)
    zeros = layer["qzeros"].numpy().view(np.uint32).copy()
    zeros[0, 0] = 0x00F0_0010
    older = {**layer, "qzeros": torch.from_numpy((zeros - np.uint32(0x1111_1111)).view(np.int32))}
    np.testing.assert_array_equal(layouts.with_zeros_of_gptq_1(older)["qzeros"].numpy().view(np.uint32), zeros)


@pytest.mark.parametrize("options", [{}, {"group": -1}, {"group": 128, "symmetric": True}])
def test_awq(options: dict[str, Any]) -> None:
    """Eight outputs of a word in AWQ's order."""
    layer, weight = packed.awq(SHAPE, **options)
    np.testing.assert_array_equal(layouts.awq(layer).values(), weight.numpy())


def test_awq_order_by_hand() -> None:
    """The lowest four bits are output 0, the next output 2."""
    layer = {"qweight": torch.tensor([[0x0000_0021]], dtype=torch.int32), "scales": torch.ones((1, 8)).half()}
    assert (layouts.awq(layer).q[:, 0] + 8).tolist() == [1, 0, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("options", [{}, {"group": -1}, {"symmetric": False}])
def test_compressed_tensors(bits: int, options: dict[str, Any]) -> None:
    """Integers in words, zero points in words along the outputs."""
    layer, weight = packed.compressed(SHAPE, bits=bits, **options)
    np.testing.assert_array_equal(layouts.compressed(layer).values(), weight.numpy())


@pytest.mark.parametrize("shape", [(), (1,), (64,), (64, 1)])
def test_compressed_tensors_in_int8(shape: tuple[int, ...]) -> None:
    """One scale for all, or one for each output."""
    q, scale = torch.randint(-128, 128, SHAPE, dtype=torch.int8), torch.rand(shape).bfloat16()
    want = q.float() * (scale.float().reshape(-1, 1) if scale.ndim else scale.float())
    np.testing.assert_array_equal(layouts.compressed({"weight": q, "weight_scale": scale}).values(), want.numpy())


@pytest.mark.parametrize("scales", [(), (1,), (1, 1), (200,), (200, 1), (2, 3)])
def test_small_floats(scales: tuple[int, ...]) -> None:
    """One scale for all, for each output, or for each tile of 128 x 128; those at the edges are smaller."""
    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (200, 300)).astype(ml_dtypes.float8_e4m3fn)
    scale = random.uniform(0.5, 1, scales).astype(np.float32)
    want = weight.astype(np.float32)
    for n in range(200):
        for k in range(300):
            one = scale[n // 128, k // 128] if scales == (2, 3) else scale.reshape(-1)[n if scale.size > 1 else 0]
            want[n, k] *= one
    found = layouts.floats(
        torch.from_numpy(weight.view(np.uint8)).view(torch.float8_e4m3fn), torch.tensor(scale), (128, 128)
    )
    np.testing.assert_array_equal(found.numpy(), want)


def test_mxfp4_by_hand() -> None:
    """The earlier number in the low half of a byte; exponents plus 127; experts' weights are stored the other way."""
    blocks = torch.zeros((2, 3, 1, 16), dtype=torch.uint8)
    blocks[1, 2, 0, :2] = torch.tensor([0xA1, 0x7F], dtype=torch.uint8)
    found = layouts.mxfp4(blocks, torch.full((2, 3, 1), 129, dtype=torch.uint8))
    assert found.shape == (2, 32, 3)
    assert found[1, :5, 2].tolist() == [0.5 * 4, -1.0 * 4, -6.0 * 4, 6.0 * 4, 0.0]
    assert torch.count_nonzero(found) == 4
