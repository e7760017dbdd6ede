"""torch: the wrapped program as a Runtime, bit for bit what its module gives."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.runtime.torch import Torch, _array, _tensor


def test_a_step_is_the_programs(tiny: tuple[Path, GraphContract]) -> None:
    """Ragged rows: the last token of each row; caches are those that the program returns."""
    folder, contract = tiny
    runtime = Torch.load(folder / layout.WRAPPED / layout.PROGRAM, contract, Profiles.of_axes(contract))
    session = runtime.session(2)
    found = session.step([[5, 6, 7], [9]])
    empty = [torch.zeros(tensor.sized(batch=2)) for tensor in contract.caches]
    mask, ids = torch.tensor([[1, 1, 1], [1, 0, 0]]), torch.tensor([[5, 6, 7], [9, 0, 0]])
    positions = torch.arange(3).repeat(2, 1)
    with torch.inference_mode():
        logits, present = runtime.module(ids, mask, positions, torch.zeros(2, dtype=torch.int64), empty)
    np.testing.assert_array_equal(found, logits.numpy())
    for cache, want in zip(session.read_caches(), present, strict=True):
        np.testing.assert_array_equal(cache, want.numpy())
    assert session.lengths.tolist() == [3, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", ml_dtypes.bfloat16])
def test_arrays_and_tensors_share_memory(dtype: str | type) -> None:
    """Also in bfloat16, which NumPy and PyTorch do not have in common; 1.5 and 3 are exact in all of them."""
    array = np.array([[1.5, 3.0]]).astype(dtype)
    tensor = _tensor(array)
    assert str(tensor.dtype) == f"torch.{array.dtype.name}"
    tensor[0, 0] = 7
    assert array[0, 0] == 7
    back = _array(tensor)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
