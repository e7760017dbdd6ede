"""The table of weight formats: complete, and consistent with the libraries that compute with it."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from pipeline.core.tables.formats import FORMATS, Format, Weights


def test_every_value_of_quantize_weights_has_a_format() -> None:
    """But none, which leaves weights as they are."""
    assert FORMATS.keys() == set(Weights) - {Weights.none}


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=[kind.value for kind in FORMATS])
def test_types_are_those_of_numpy_and_onnx(fmt: Format) -> None:
    """Numbers and scales have a type in numpy with ml_dtypes and in ONNX, of as many bits as the table says."""
    assert ml_dtypes  # registers its types with numpy
    assert ir.DataType.from_numpy(np.dtype(fmt.numbers)).bitwidth == fmt.bits
    assert fmt.is_float == ir.DataType.from_numpy(np.dtype(fmt.numbers)).is_floating_point()
    assert fmt.scales is None or ir.DataType.from_numpy(np.dtype(fmt.scales)).bitwidth == 8


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=[kind.value for kind in FORMATS])
def test_what_formats_can_do(fmt: Format) -> None:
    """Some block size is allowed; offsets and GPTQ are for integers."""
    assert fmt.blocks
    assert not (fmt.is_float and (fmt.offsets or fmt.gptq))
