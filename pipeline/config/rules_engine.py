"""Which types and which engines go together; pipeline.config.rules has the other rules."""

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields

from pipeline.core.engines import KINDS, PROVIDERS, EngineKind
from pipeline.core.errors import Problem
from pipeline.core.schema import Compute, Config, Embedding, Engine, Rounding, Weights

INT4_BLOCKS = (16, 32, 64, 128, 256)  # what ONNX Runtime's kernel for 4 bits, MatMulNBits, takes
FLOAT_BLOCKS = {Weights.fp8: 0, Weights.nvfp4: 16}  # the block of each small float: the channel, and NVIDIA's format
FLOAT_TARGETS = {Weights.fp8: 8.9, Weights.nvfp4: 12.0}  # least compute capability that computes with them
NO_KERNELS = {(provider, Compute.bf16) for provider in PROVIDERS}


def _precision(config: Config) -> Iterator[Problem]:
    compute, provider = config.precision.compute, config.engine.provider
    if (provider, compute) in NO_KERNELS:
        yield Problem(
            f"{provider} cannot compute in {compute.value}", "precision.compute", "precision=fp32 or precision=fp16"
        )


def _weights(config: Config) -> Iterator[Problem]:
    """Block sizes that both formats and kernels know, and no key that would be without effect."""
    quantize = config.quantize
    size, where = quantize.block_size, "quantize.block_size"
    small = FLOAT_BLOCKS.get(quantize.weights)
    allowed = INT4_BLOCKS if quantize.weights is Weights.int4 else (0, *INT4_BLOCKS) if small is None else (small,)
    if quantize.weights is not Weights.none and size not in allowed:
        what = f"{where}={size} is not supported with quantize.weights={quantize.weights.value}"
        yield Problem(what, where, f"choose one of {', '.join(map(str, allowed))}")
    if quantize.weights is not Weights.int4 and not quantize.symmetric:
        where = "quantize.symmetric"
        what = f"{where}=false has no effect with quantize.weights={quantize.weights.value}"
        yield Problem(what, where, f"{where}=true, or precision=int4")
    if quantize.weights is Weights.none and quantize.rounding is Rounding.gptq:
        where = "quantize.rounding"
        what = f"{where}=gptq has no effect with quantize.weights=none"
        yield Problem(what, where, f"{where}=nearest, or precision=int8")
    if quantize.weights in FLOAT_BLOCKS and quantize.rounding is Rounding.gptq:
        where = "quantize.rounding"
        yield Problem(f"{where}=gptq is for whole numbers", where, f"{where}=nearest, or precision=int8")
    if quantize.rounding is Rounding.gptq and config.precision.compute is Compute.bf16:
        where = "quantize.rounding"
        what = f"{where}=gptq reads its text in ONNX Runtime on the CPU, which has no kernels for bf16"
        yield Problem(what, where, f"{where}=nearest, or precision.compute=fp32")
    if quantize.weights is Weights.none and quantize.embedding is not Embedding.none:
        where = "quantize.embedding"
        what = f"{where}={quantize.embedding.value} has no effect with quantize.weights=none"
        yield Problem(what, where, f"{where}=none, or precision=int8")


def _engine(config: Config) -> Iterator[Problem]:
    """No key that would be without effect."""
    kind = config.engine.kind
    for field in fields(Engine)[1:]:
        default = [] if field.default is MISSING else field.default
        if getattr(config.engine, field.name) != default and field.name not in KINDS[kind].config_keys:
            where = f"engine.{field.name}"
            fix = f"leave it out; {kind.value} takes {', '.join(KINDS[kind].config_keys)}"
            yield Problem(f"{where} has no effect with engine.kind={kind.value}", where, fix)


def _provider(config: Config) -> Iterator[Problem]:
    engine = config.engine
    if engine.kind is EngineKind.onnxruntime and engine.provider not in PROVIDERS:
        what = f"{engine.kind.value} has no provider {engine.provider} here"
        yield Problem(what, "engine.provider", f"choose {' or '.join(PROVIDERS)}")
    if engine.provider in PROVIDERS[1:] and config.quantize.weights is not Weights.none:
        what = f"{engine.provider} has no kernels for kvforge's weights of {config.quantize.weights.value}"
        yield Problem(what, "quantize.weights", "precision=fp16, engine=tensorrt_rtx or engine=onnxruntime_cpu")


def _targets(config: Config) -> Iterator[Problem]:
    engine = config.engine
    if engine.kind is EngineKind.tensorrt_rtx and not engine.targets:
        fix = "give at least one, as engine.targets=[8.9]"
        yield Problem("TensorRT-RTX needs to know the GPUs to build for", "engine.targets", fix)


def _small_floats(config: Config) -> Iterator[Problem]:
    """Engines that compute with them: TensorRT's, for GPUs that are new enough."""
    weights, engine = config.quantize.weights, config.engine
    least = FLOAT_TARGETS.get(weights)
    if least is None:
        return
    if engine.kind is EngineKind.onnxruntime:
        what = f"ONNX Runtime has no kernels for weights of {weights.value}"
        yield Problem(what, "quantize.weights", "engine=tensorrt_rtx, or precision=int8 or int4")
    old = [target for target in engine.targets if target < least]
    if old:
        what = f"{weights.value} needs compute capability {least} or later, not {', '.join(map(str, old))}"
        yield Problem(
            what, "engine.targets", f"engine.targets=[{', '.join(str(t) for t in (8.9, 12.0) if t >= least)}]"
        )


RULES: tuple[Callable[[Config], Iterator[Problem]], ...] = (
    _precision, _weights, _engine, _provider, _targets, _small_floats,
)  # fmt: skip
