"""What each stage of a build takes at most: memory of its largest process, and what it leaves on the disk.

A stage's memory is a sum of what it holds at once: PyTorch and its libraries, weights in one type or the other, mapped
files that it reads, caches, intermediate results. The pages of a mapped file count as memory here, as they do in a
stage's own "peak memory", although the system may drop them. benchmarks/plan.md compares these sums with builds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from pipeline.core.schema import Logits, Rounding, Source
from pipeline.core.tables.dtypes import COMPUTE
from pipeline.core.tables.engines import ON_ONNXRUNTIME
from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.planning.model_sizes import ModelSizes

GB = 2**30
FP32 = 4  # bytes
WINDOW = 512  # tokens that gptq reads at a time
SMALL = 6 * 2**20  # graphs, reports and the tokenizer's files
# What a stage holds without a model: its libraries, and its work on a graph.
LIBRARIES = int(0.34 * GB)  # PyTorch and transformers
TRACING = int(0.36 * GB)  # torch.export, besides
EXPORTER = int(0.42 * GB)
ONNXSIM = int(0.16 * GB)
PLAIN = int(0.09 * GB)  # NumPy, ONNX Runtime, and no graph
VERIFYING = int(0.28 * GB)  # besides LIBRARIES: a program's graph, ONNX Runtime
LOGITS = int(0.19 * GB)  # of a chunk of text, of both models
ROWS = 16  # of text that verify reads at once
ENGINE = int(0.13 * GB)
BUILDER = int(0.65 * GB)  # TensorRT


@dataclass(frozen=True)
class Cost:
    """Bytes. steps: what a stage holds at its largest moments, each its own memory and the mapped files that it reads.
    disk: what it leaves in the point's folder. cached: in DVC's cache, where files of equal content are stored once."""

    steps: tuple[tuple[int, int], ...]
    disk: int = 0
    cached: int = 0

    @property
    def memory(self) -> int:
        """The most memory that it holds, as it is counted for a process."""
        return max(own + mapped for own, mapped in self.steps)

    @property
    def held(self) -> int:
        """The same without mapped files, whose pages the system drops when it has to."""
        return max(own for own, _ in self.steps)


@dataclass(frozen=True)
class Point:
    """A point's sizes in bytes."""

    config: DictConfig
    sizes: ModelSizes

    @property
    def number(self) -> int:
        """The bytes of a number in the compute type."""
        return COMPUTE[self.config.precision.compute.value].bits // 8

    @property
    def original(self) -> int:
        """The weights of the original, in fp32."""
        return self.sizes.parameters * FP32

    @property
    def loaded(self) -> int:
        """The same while it is loaded: a module's experts are joined once all are read, several modules at a time."""
        return self.original + self.sizes.experts * FP32

    @property
    def weights(self) -> int:
        """The weights in the compute type."""
        return self.sizes.parameters * self.number

    @property
    def stored(self) -> int:
        """The checkpoint's files; of one on the hub, which may not be here yet, as if they were in 16 bits."""
        return self.sizes.stored_bytes or (2 * self.sizes.parameters if self.config.model.source is Source.hub else 0)

    @property
    def head(self) -> int:
        """The LM head, which may be the embedding, in the compute type."""
        return (self.sizes.head or self.sizes.embedding) * self.number

    @property
    def quantized(self) -> bool:
        """Whether weights are quantized."""
        return self.config.quantize.weights is not Weights.none

    @property
    def final(self) -> int:
        """The weights that the engine is built from."""
        if not self.quantized:
            return self.weights
        tables = self.sizes.embedding + self.sizes.head
        rest = (self.sizes.parameters - self.sizes.linear - tables) * self.number
        if self.config.quantize.embedding.value == Weights.none.value:
            rest += tables * self.number
        else:
            rest += tables
        return rest + self._linear_bytes(self.sizes.linear)

    @property
    def engine(self) -> int:
        """The weights in engine/: ONNX Runtime's kernel on the CPU takes a scale for each 32, where others have one for
        a row."""
        by_row = 0
        if self.quantized and self.config.engine.lower:
            by_row += 0 if self.config.quantize.block_size else self.sizes.linear
            if self.config.quantize.embedding.value != Weights.none.value:
                by_row += self.sizes.head or self.sizes.embedding
        return self.final + by_row // 32 * self.number

    def _linear_bytes(self, numbers: int) -> int:
        """Bytes of quantized weights of linear layers, with a scale, and maybe an offset, for each block."""
        options = self.config.quantize
        form, block = FORMATS[options.weights], int(options.block_size)
        scales = numbers // block if block else 0
        per_scale = (1 if form.scales else self.number) * (1 if options.symmetric else 2)
        return numbers * form.bits // 8 + scales * per_scale

    def caches(self, batch: int, slots: int | None = None) -> int:
        """The caches of so many rows, in the compute type, and both buffers of their states."""
        cached = self.sizes.cache_slot * (slots or self.config.cache.size) * self.number
        return batch * (cached + 2 * self.sizes.states * FP32)

    def engine_caches(self, batch: int) -> int:
        """The same of an engine, which may have them in 8 or 4 bits, and whose layers with a window may hold no more
        than that."""
        whole, bits = self.caches(batch), int(self.config.cache.dtype.bits)
        if bits:
            return whole * bits // (8 * self.number)
        if not self.config.engine.window_cache or not self.sizes.window:
            return whole
        left_out: int = max(self.config.cache.size - self.sizes.window, 0)
        return whole - batch * self.sizes.windowed_slot * left_out * self.number

    def packed(self, weights: int) -> int:
        """What ONNX Runtime holds of a model's weights, in bytes, once it is loaded on the CPU: all but an embedding
        that is not the LM head, of which it reads a row for a token, and experts, which stay in the mapped file. It
        computes fp16 in fp32, and keeps weights so."""
        lookup = weights * self.sizes.embedding // self.sizes.parameters if self.sizes.head else 0
        return (weights - lookup - self.mapped_experts) * (1 if self.quantized else FP32 // self.number)

    @property
    def mapped_experts(self) -> int:
        """The experts' weights that ONNX Runtime reads from the mapped file, those that are chosen: of fp32."""
        return 0 if self.quantized or self.number != FP32 else self.sizes.experts * FP32

    @property
    def activations(self) -> int:
        """The largest intermediate results of a step: attention scores of a whole chunk of one row over the cache, or
        the logits of the largest batch."""
        config, sizes = self.config, self.sizes
        scores = sizes.heads * config.axes.sequence * config.cache.size
        tokens = config.axes.batch * (config.axes.sequence if config.wrap.logits is Logits.all else 1)
        return int(max(scores, tokens * sizes.vocab)) * FP32


def largest_in_memory(memory: int) -> float:
    """Estimate the parameters of the largest model in fp32, with the default caches, that `memory` bytes verify: the
    original and the engine at once."""
    return max(memory - LIBRARIES - VERIFYING - LOGITS - GB, 0) / (2 * FP32)


def largest_on_disk(disk: int) -> float:
    """Estimate the same for `disk` bytes: four artifacts, and two of them in DVC's cache."""
    return disk / (6 * FP32)


def parts(config: DictConfig, sizes: ModelSizes) -> dict[str, int]:
    """Return the bytes that the costs are sums of: the checkpoint's files, weights in the compute type, the cache of a
    row and of the largest batch, and the largest intermediate results of a step."""
    point, batch = Point(config, sizes), config.axes.batch
    return {
        "checkpoint": point.stored,
        "weights": point.weights,
        "cache_row": point.engine_caches(1),
        "caches": point.engine_caches(batch),
        "activations": point.activations,
    }


def costs(config: DictConfig, sizes: ModelSizes) -> dict[str, Cost]:
    """Return the cost of each stage that builds or measures, in their order."""
    point = Point(config, sizes)
    return {name: stage(point) for name, stage in STAGES.items()}


def _wrap(point: Point) -> Cost:
    loading = LIBRARIES + point.loaded, point.stored
    tracing = LIBRARIES + TRACING + point.weights, 0
    disk = point.weights + SMALL
    return Cost((loading, tracing), disk, disk)


def _export(point: Point) -> Cost:
    joined = 4 * point.sizes.largest * point.number  # parts of a packed layer, and their bytes side by side
    disk = point.weights + SMALL
    return Cost(((EXPORTER + joined, point.weights),), disk, disk)


def _simplify(point: Point) -> Cost:
    return Cost(((ONNXSIM, 0),), point.weights + SMALL)  # the data file is that of onnx/


def _quantize(point: Point) -> Cost:
    if not point.quantized and not point.config.cache.dtype.bits:
        return Cost(((PLAIN, 0),))
    if not point.quantized:  # inputs and outputs of the step that shows keys and values are caches in fp32
        return Cost(((LIBRARIES + point.packed(point.weights) + 2 * point.caches(1), 0),), point.final, point.final)
    rounding = PLAIN + point.final + 4 * point.sizes.largest * FP32
    steps = [(rounding, point.sizes.largest * point.number)]
    if point.config.quantize.rounding is Rounding.gptq:
        hessians = point.sizes.hessians * FP32
        tokens = min(WINDOW, point.config.axes.sequence, point.config.cache.size)
        calibrating = LIBRARIES + hessians + tokens * point.sizes.inputs * point.number + point.caches(1)
        steps = [(calibrating, point.weights), (LIBRARIES + hessians + rounding, point.sizes.largest * point.number)]
    return Cost(tuple(steps), point.final, point.final)


def _engine(point: Point) -> Cost:
    disk = point.engine + SMALL
    if point.config.engine.kind not in ON_ONNXRUNTIME:
        # with copies of the weights, as benchmarks/tensorrt_plans.md shows
        return Cost(((BUILDER + 2 * point.final, point.final),), disk, disk)
    if point.quantized:  # packed in memory again, from the mapped file
        return Cost(((ENGINE + point.engine, point.final),), disk, disk)
    ordered = 2 * point.mapped_experts // 3  # the first product's gate and up, read to put their rows in order
    loading = ENGINE + point.packed(point.final), max(point.head, point.sizes.largest * point.number, ordered)
    # the weights are those of onnx/, but for experts, whose rows the kernel has in another order
    return Cost((loading,), disk, disk if point.sizes.experts else SMALL)


def _verify(point: Point) -> Cost:
    config = point.config
    held = LIBRARIES + VERIFYING + point.original
    loading = LIBRARIES + point.loaded, point.stored
    # PyTorch writes no cache in place; weights that equal the original's are shared with it, others stay mapped
    scores = 3 * point.activations
    program = held + 3 * point.caches(config.axes.batch) + scores, 0 if point.number == FP32 else point.weights
    graph = held + point.packed(point.weights) + point.caches(config.axes.batch), point.head + point.mapped_experts
    steps = [loading, program, graph]
    if config.verify.quality.tokens and config.engine.kind in ON_ONNXRUNTIME:
        rows = min(ROWS, -(-config.verify.quality.tokens // config.verify.quality.window))
        # the original's own cache, and a copy of it each time that it grows
        read = 2 * rows * point.sizes.cache_slot * config.verify.quality.window * FP32
        steps.append(
            (held + point.packed(point.engine) + point.engine_caches(rows) + read + LOGITS, point.mapped_experts)
        )
    return Cost(tuple(steps))


def _bench(point: Point) -> Cost:
    if point.config.engine.kind not in ON_ONNXRUNTIME:
        return Cost(((LIBRARIES, point.final),))  # weights and caches are on the GPU
    packed = PLAIN + point.packed(point.engine)
    loading = packed, 0 if point.quantized else point.head
    running = packed + point.engine_caches(point.config.bench.batch), point.mapped_experts
    return Cost((loading, running))


STAGES: Mapping[str, Callable[[Point], Cost]] = {
    "wrap": _wrap,
    "export": _export,
    "simplify": _simplify,
    "quantize": _quantize,
    "engine": _engine,
    "verify": _verify,
    "bench": _bench,
}
