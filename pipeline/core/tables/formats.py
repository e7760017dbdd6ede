"""Weight formats: what the numbers of a quantized weight are, and what computes with them.

Everything that depends on the format of a weight reads this table. The numbers themselves are computed in
pipeline.quantization.grids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from pipeline.core.tables.engines import CPU


class Weights(Enum):
    """Type of the linear layers' weights; none leaves them in the compute type."""

    none = "none"
    int8 = "int8"
    int4 = "int4"
    fp8 = "fp8"
    nvfp4 = "nvfp4"


@dataclass(frozen=True)
class Format:
    """One weight format.

    bits: of a number. numbers: their type, as numpy and ml_dtypes name it. blocks: allowed values of
    quantize.block_size, the weights that share a scale; 0 is a whole output channel. scales: the type that scales are
    stored in; None for the compute type. offsets: whether blocks can have an offset (quantize.symmetric=false).
    gptq: whether GPTQ can round to it. min_capability: compute capability of the oldest NVIDIA GPU that computes with
    it; None for any. providers: ONNX Runtime's execution providers that have kernels for it. cpu_dequantizes: whether
    ONNX Runtime's CPU provider runs the portable graph, so that verify can compare it.
    """

    bits: int
    numbers: str
    blocks: tuple[int, ...]
    scales: str | None = None
    offsets: bool = False
    gptq: bool = False
    min_capability: float | None = None
    providers: tuple[str, ...] = ()
    cpu_dequantizes: bool = True

    @property
    def is_float(self) -> bool:
        """Whether the numbers are small floats; else they are signed integers."""
        return self.numbers.startswith("float")


BLOCKS = (16, 32, 64, 128, 256)  # what ONNX Runtime's kernel, MatMulNBits, accepts
FORMATS: Mapping[Weights, Format] = {
    Weights.int8: Format(8, "int8", (0, *BLOCKS), gptq=True, providers=(CPU,)),
    Weights.int4: Format(4, "int4", BLOCKS, offsets=True, gptq=True, providers=(CPU,)),
    Weights.fp8: Format(8, "float8_e4m3fn", (0,), min_capability=8.9),
    Weights.nvfp4: Format(  # NVIDIA's format: blocks of 16, whose scales are floats of 8 bits
        4, "float4_e2m1fn", (16,), scales="float8_e4m3fn", min_capability=12.0, cpu_dequantizes=False
    ),
}
