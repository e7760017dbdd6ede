"""rules_engine: engines, types and weight formats that do not go together."""

import pytest

from tests.support.mistakes import assert_one_problem

WRONG = [
    (["engine.provider=DmlExecutionProvider"], "engine.provider", "choose CPUExecutionProvider"),
    (["engine=onnxruntime_cuda", "precision=int8"], "quantize.weights", "CUDAExecutionProvider has no kernels"),
    (["engine.lower=false", "engine.window_cache=true"], "engine.window_cache", "no effect with engine.lower=false"),
    (["engine=onnxruntime_cuda", "engine.window_cache=true"], "engine.window_cache", "with engine.provider=CUDA"),
    (["engine=tensorrt_rtx", "engine.window_cache=true"], "engine.window_cache", "with engine.kind=tensorrt_rtx"),
    (["engine=tensorrt_rtx", "engine.targets=[]"], "engine.targets", "as engine.targets=[8.9]"),
    (["cache.dtype=int8", "engine=tensorrt_rtx"], "cache.dtype", "cache update of TensorRT-RTX takes floats only"),
    (["cache.dtype=int4", "engine=onnxruntime_cuda"], "cache.dtype", "on the CPU only, not with CUDA"),
    (["cache.dtype=int8", "precision=fp16"], "precision.compute", "is computed with in fp32, not in fp16"),
    (["cache.dtype=int8", "engine.window_cache=true"], "engine.window_cache", "do not go together"),
    (["precision=bf16"], "precision.compute", "cannot compute in bf16"),
    (["precision=int4", "quantize.block_size=0"], "quantize.block_size", "choose one of 16, 32, 64, 128, 256"),
    (["precision=int8", "quantize.block_size=48"], "quantize.block_size", "choose one of 0, 16, 32"),
    (["precision=int8", "quantize.symmetric=false"], "quantize.symmetric", "has no effect with quantize.weights=int8"),
    (
        ["engine=tensorrt_rtx", "precision=int8", "precision.compute=bf16"],
        "quantize.rounding",
        "no kernels for bf16",
    ),
    (["engine=tensorrt_rtx_all"], "engine.targets", "precision=fp16, int8_fp16 or int4_fp16"),
    (["engine=tensorrt_rtx_all", "precision=bf16"], "engine.targets", "or targets from 8.0 on"),
    (["engine=tensorrt_rtx", "precision=fp8"], "engine.targets", "8.9 or later, not 8.6"),
    (["engine=tensorrt_rtx", "precision=nvfp4"], "engine.targets", "12.0 or later, not 8.6, 8.9"),
    (["engine=tensorrt", "precision=nvfp4", "quantize.block_size=32"], "quantize.block_size", "choose one of 16"),
    (["engine=tensorrt", "precision=fp8", "quantize.rounding=gptq"], "quantize.rounding", "is for whole numbers"),
    (["quantize.rounding=gptq"], "quantize.rounding", "has no effect with quantize.weights=none"),
    (["quantize.embedding=int8"], "quantize.embedding", "has no effect with quantize.weights=none"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_has_one_clear_message(overrides: list[str], where: str, says: str) -> None:
    """A single mistake gives a single problem that names the key, what was given, and the way out."""
    assert_one_problem(overrides, where, says)
