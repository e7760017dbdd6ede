"""Which engines, types and weight formats go together; pipeline.config.rules has the other rules."""

from collections.abc import Iterator, Sequence

from pipeline.config.keys import Rule
from pipeline.core.errors import Problem
from pipeline.core.schema import CacheType, ComputeType, Embedding, Rounding, Weights
from pipeline.core.tables.engines import CPU, KINDS, ON_ONNXRUNTIME, PROVIDERS, EngineKind
from pipeline.core.tables.formats import FORMATS

FP32_FROM = 8.0  # compute capability from which on TensorRT-RTX multiplies in fp32 and bf16


def _compute(provider: str, compute: ComputeType) -> Iterator[Problem]:
    if provider in PROVIDERS and compute is ComputeType.bf16:
        fix = "precision=fp32 or precision=fp16"
        yield Problem(f"{provider} cannot compute in {compute.value}", "precision.compute", fix)


def _block_size(weights: Weights, size: int) -> Iterator[Problem]:
    """Block sizes that both formats and kernels know."""
    fmt = FORMATS.get(weights)
    if fmt is not None and size not in fmt.blocks:
        what = f"quantize.block_size={size} is not supported with quantize.weights={weights.value}"
        yield Problem(what, "quantize.block_size", f"choose one of {', '.join(map(str, fmt.blocks))}")


def _symmetric(weights: Weights, symmetric: bool) -> Iterator[Problem]:
    if not symmetric and not (weights in FORMATS and FORMATS[weights].offsets):
        yield _no_effect("quantize.symmetric", "false", weights, "quantize.symmetric=true, or precision=int4")


def _rounding(weights: Weights, rounding: Rounding, compute: ComputeType) -> Iterator[Problem]:
    where = "quantize.rounding"
    if rounding is not Rounding.gptq:
        return
    if weights is Weights.none:
        yield _no_effect(where, "gptq", weights, f"{where}=nearest, or precision=int8")
    elif not FORMATS[weights].gptq:
        yield Problem(f"{where}=gptq is for whole numbers", where, f"{where}=nearest, or precision=int8")
    if compute is ComputeType.bf16:
        what = f"{where}=gptq reads its text in ONNX Runtime on the CPU, which has no kernels for bf16"
        yield Problem(what, where, f"{where}=nearest, or precision.compute=fp32")


def _embedding(weights: Weights, embedding: Embedding) -> Iterator[Problem]:
    where = "quantize.embedding"
    if weights is Weights.none and embedding is not Embedding.none:
        yield _no_effect(where, embedding.value, weights, f"{where}=none, or precision=int8")


def _no_effect(key: str, value: str, weights: Weights, fix: str) -> Problem:
    return Problem(f"{key}={value} has no effect with quantize.weights={weights.value}", key, fix)


def _provider(kind: EngineKind, provider: str, weights: Weights) -> Iterator[Problem]:
    if kind is EngineKind.onnxruntime_client and provider != CPU:
        what = f"engine=onnxruntime_client is built for {CPU}, not for {provider}"
        yield Problem(what, "engine.provider", f"engine.provider={CPU}, or engine=onnxruntime_cuda")
    if kind is EngineKind.onnxruntime and provider not in PROVIDERS:
        what = f"{kind.value} has no provider {provider} here"
        yield Problem(what, "engine.provider", f"choose {' or '.join(PROVIDERS)}")
    if provider in PROVIDERS[1:] and weights in FORMATS and provider not in FORMATS[weights].providers:
        what = f"{provider} has no kernels for kvforge's weights of {weights.value}"
        yield Problem(what, "quantize.weights", "precision=fp16, engine=tensorrt_rtx or engine=onnxruntime_cpu")


def _targets(kind: EngineKind, targets: Sequence[float]) -> Iterator[Problem]:
    if kind is EngineKind.tensorrt_rtx and not targets:
        fix = "give at least one, as engine.targets=[8.9]"
        yield Problem("TensorRT-RTX needs to know the GPUs to build for", "engine.targets", fix)


def _turing(kind: EngineKind, targets: Sequence[float], compute: ComputeType) -> Iterator[Problem]:
    """TensorRT-RTX 1.7: "Cannot compile operation for Turing (SM75): FP32 GEMM is not supported"; nor is bf16."""
    old = [target for target in targets if target < FP32_FROM]
    if kind is EngineKind.tensorrt_rtx and old and compute is not ComputeType.fp16:
        what = f"TensorRT-RTX computes in fp16 alone on {', '.join(map(str, old))}, not in {compute.value}"
        yield Problem(what, "engine.targets", f"precision=fp16, int8_fp16 or int4_fp16; or targets from {FP32_FROM} on")


def _kernels(kind: EngineKind, targets: Sequence[float], weights: Weights) -> Iterator[Problem]:
    """Engines and GPUs that compute with the weights' format."""
    if weights not in FORMATS:
        return
    least = FORMATS[weights].min_capability or 0.0
    if kind in ON_ONNXRUNTIME and not FORMATS[weights].providers:
        what = f"ONNX Runtime has no kernels for weights of {weights.value}"
        yield Problem(what, "quantize.weights", "engine=tensorrt_rtx, or precision=int8 or int4")
    old = [target for target in targets if target < least]
    if old:
        what = f"{weights.value} needs compute capability {least} or later, not {', '.join(map(str, old))}"
        fix = f"engine.targets=[{', '.join(str(t) for t in (8.9, 12.0) if t >= least)}]"
        yield Problem(what, "engine.targets", fix)


def _window_cache(kind: EngineKind, provider: str, lower: bool, window_cache: bool) -> Iterator[Problem]:
    if kind is EngineKind.onnxruntime and window_cache and (provider in PROVIDERS[1:] or not lower):
        given = f"engine.provider={provider}" if lower else "engine.lower=false"
        what, fix = f"engine.window_cache=true has no effect with {given}", "engine=onnxruntime_cpu, or remove it"
        yield Problem(what, "engine.window_cache", fix)


def _cache(dtype: CacheType, kind: EngineKind, provider: str, compute: ComputeType) -> Iterator[Problem]:
    """Engines and types that a quantized cache goes with."""
    if dtype is CacheType.auto:
        return
    given = f"cache.dtype={dtype.value}"
    if kind is EngineKind.onnxruntime_client:
        yield Problem(f"{given}: clients make caches of floats", "cache.dtype", "cache.dtype=auto")
    elif kind is not EngineKind.onnxruntime:
        what = f"{given}: the cache update of {KINDS[kind].product} takes floats only"
        yield Problem(what, "cache.dtype", "cache.dtype=auto, or engine=onnxruntime_cpu")
    elif provider in PROVIDERS[1:]:
        what = f"{given}: kvforge has a quantized cache on the CPU only, not with {provider}"
        yield Problem(what, "cache.dtype", "cache.dtype=auto, or engine=onnxruntime_cpu")
    elif compute is not ComputeType.fp32:
        what = f"{given} is computed with in fp32, not in {compute.value}"
        yield Problem(what, "precision.compute", "cache.dtype=auto, or precision=fp32, int8 or int4")


def _windows_and_cache(dtype: CacheType, window_cache: bool) -> Iterator[Problem]:
    if dtype is not CacheType.auto and window_cache:
        what = f"cache.dtype={dtype.value} and engine.window_cache=true do not go together"
        yield Problem(what, "engine.window_cache", "remove one of them")


RULES: tuple[Rule, ...] = (
    (_compute, "engine.provider", "precision.compute"),
    (_block_size, "quantize.weights", "quantize.block_size"),
    (_symmetric, "quantize.weights", "quantize.symmetric"),
    (_rounding, "quantize.weights", "quantize.rounding", "precision.compute"),
    (_embedding, "quantize.weights", "quantize.embedding"),
    (_provider, "engine.kind", "engine.provider", "quantize.weights"),
    (_window_cache, "engine.kind", "engine.provider", "engine.lower", "engine.window_cache"),
    (_cache, "cache.dtype", "engine.kind", "engine.provider", "precision.compute"),
    (_windows_and_cache, "cache.dtype", "engine.window_cache"),
    (_targets, "engine.kind", "engine.targets"),
    (_turing, "engine.kind", "engine.targets", "precision.compute"),
    (_kernels, "engine.kind", "engine.targets", "quantize.weights"),
)
