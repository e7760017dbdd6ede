"""The types of numbers in graphs and engines: one row each, by the names that each library gives it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NumberType:
    """One type. `name` is that of NumPy with ml_dtypes, of PyTorch and of the graph contract."""

    name: str
    onnx: int  # onnx.TensorProto.DataType
    tensorrt: str  # of tensorrt.DataType
    bits: int
    is_float: bool = False
    config: str | None = None  # the value of precision.compute


NUMBER_TYPES = (
    NumberType("float32", 1, "FLOAT", 32, True, "fp32"),
    NumberType("float16", 10, "HALF", 16, True, "fp16"),
    NumberType("bfloat16", 16, "BF16", 16, True, "bf16"),
    NumberType("float8_e4m3fn", 17, "FP8", 8, True),
    NumberType("float4_e2m1fn", 23, "FP4", 4, True),
    NumberType("int64", 7, "INT64", 64),
    NumberType("int32", 6, "INT32", 32),
    NumberType("int8", 3, "INT8", 8),
    NumberType("uint8", 2, "UINT8", 8),
    NumberType("int4", 22, "INT4", 4),
    NumberType("bool", 9, "BOOL", 8),
)
BY_NAME = {kind.name: kind for kind in NUMBER_TYPES}
BY_ONNX = {kind.onnx: kind for kind in NUMBER_TYPES}
BY_TENSORRT = {kind.tensorrt: kind for kind in NUMBER_TYPES}
COMPUTE = {kind.config: kind for kind in NUMBER_TYPES if kind.config is not None}  # "fp16" -> its row
