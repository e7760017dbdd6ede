"""dtypes: the names and sizes of each type are those of the libraries."""

import ml_dtypes  # noqa: F401  # NumPy knows its types once it is imported
import numpy as np
import onnx
import pytest
import torch

from pipeline.core.schema import ComputeType
from pipeline.core.tables.dtypes import BY_TENSORRT, COMPUTE, NUMBER_TYPES, NumberType
from tests.support.tensorrt import rtx


@pytest.mark.parametrize("kind", NUMBER_TYPES, ids=lambda kind: kind.name)
def test_a_row_is_what_the_libraries_say(kind: NumberType) -> None:
    """NumPy's type of ONNX's number has the name; size and class are PyTorch's, which has none of 4 bits."""
    assert np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.onnx)).name == kind.name
    if kind.bits >= 8:
        dtype = getattr(torch, kind.name)
        assert (dtype.itemsize * 8, dtype.is_floating_point) == (kind.bits, kind.is_float)


def test_every_type_of_tensorrt_has_a_row() -> None:
    """But for powers of two, E8M0, which no graph of kvforge holds."""
    assert set(rtx().trt.DataType.__members__) - {"E8M0"} == BY_TENSORRT.keys()


def test_every_compute_type_has_a_row() -> None:
    """precision.compute names one."""
    assert list(COMPUTE) == [compute.value for compute in ComputeType]
