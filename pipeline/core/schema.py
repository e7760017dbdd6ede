"""The schema of a point's configuration: one dataclass per section of params.yaml, and how a stage reads its sections.

Each key is described here, beside its type; docs/configuration.md and `python -m pipeline --help` are made from that
(pipeline.config.reference). What combinations are allowed is checked in pipeline.config.rules.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from pipeline.core.errors import Problem, UserError
from pipeline.core.layout import PARAMS
from pipeline.core.tables.engines import PROVIDERS
from pipeline.core.tables.engines import EngineKind as EngineKind  # sections and their choices come from one place
from pipeline.core.tables.formats import FORMATS
from pipeline.core.tables.formats import Weights as Weights
from pipeline.core.tables.keys import COUNT, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Interval, key
from pipeline.core.tables.keys import CacheType as CacheType
from pipeline.core.tables.keys import ComputeType as ComputeType
from pipeline.core.tables.keys import Embedding as Embedding
from pipeline.core.tables.keys import Find as Find
from pipeline.core.tables.keys import Logits as Logits
from pipeline.core.tables.keys import Optimization as Optimization
from pipeline.core.tables.keys import Rounding as Rounding
from pipeline.core.tables.keys import Source as Source

HUB, LOCAL, GGUF, RANDOM = Source
OPSETS = (24, 25)
BLOCK_SIZES = "; ".join(f"{kind.value}: {', '.join(map(str, fmt.blocks))}" for kind, fmt in FORMATS.items())


@dataclass
class Model:
    """The checkpoint, and how to load it."""

    source: Source = key(
        "Where the model comes from: a repository on the Hugging Face hub, a local folder, a GGUF file, or random "
        "weights, which have no tokenizer."
    )
    id: str | None = key("Repository on the hub, as owner/name.", default=None, needed_by=(HUB,))
    revision: str = key("Branch, tag or commit. Only a commit hash cannot move.", default="main", used_by=(HUB,))
    path: str | None = key(
        "The folder or GGUF file, relative to model.package, or to the repository without one.",
        default=None, needed_by=(LOCAL, GGUF),
    )  # fmt: skip
    package: str | None = key("Python package that holds the files.", default=None, used_by=(LOCAL, GGUF))
    architecture: str | None = key("Model type in transformers, such as llama.", default=None, needed_by=(RANDOM,))
    config: dict[str, Any] = key(
        "Keys of that type's configuration class; those left out keep their defaults there. "
        "Add one with a +: `+model.config.num_hidden_layers=3`.",
        default=dict, used_by=(RANDOM,),
    )  # fmt: skip
    seed: int = key("Seed of the random weights.", SEED, default=0, used_by=(RANDOM,))
    trust_remote_code: bool = key(
        "Whether to run code that comes with the checkpoint. From the hub it needs a commit hash as revision.",
        default=False, used_by=(HUB, LOCAL),
    )  # fmt: skip


@dataclass
class Axes:
    """The largest sizes of the symbolic axes."""

    batch: int = key("Largest number of rows.", COUNT)
    sequence: int = key("Largest number of new tokens per row in one step; at most cache.size.", COUNT)


@dataclass
class Cache:
    """The static KV cache."""

    size: int = key("Slots per row: the most tokens that a prompt and its answer have together.", COUNT)
    dtype: CacheType = key(
        "Type of the keys and values: auto for the compute type, or int8 or int4, with a scale for each layer, head "
        "and channel that is found on quantize.calibration: a quarter or an eighth of the memory of fp32. It needs "
        "precision.compute=fp32 and ONNX Runtime on the CPU.",
        default=CacheType.auto,
    )  # fmt: skip


@dataclass
class Precision:
    """The type that is computed in."""

    compute: ComputeType = key("Type of activations, and of weights and a cache that are not quantized.")


@dataclass
class Range:
    """The sizes of one axis."""

    min: int = key("Smallest size.", COUNT)
    opt: int = key("The size that the engine is tuned for.", COUNT)
    max: int = key("Largest size; at most that of axes.", COUNT)


@dataclass
class Shapes:
    """The sizes of one kind of step."""

    batch: Range = key("Rows.", default=Range)
    sequence: Range = key("New tokens per row.", default=Range)


@dataclass
class Profile:
    """The shapes that an engine is built for: two kinds of step, and more of them by name."""

    prefill: Shapes = key("Steps that read a prompt, or a chunk of one.", default=Shapes)
    decode: Shapes = key("Steps that generate; one row and one token must be allowed.", default=Shapes)
    more: dict[str, Any] = key(  # name -> keys of a Shapes; an override cannot add to a typed one
        "More kinds of step by name, each with batch and sequence: "
        "`'+profile.more.chunk={batch: {min: 1, opt: 1, max: 4}, sequence: {min: 17, opt: 64, max: 64}}'`.",
        default=dict,
    )


@dataclass
class Engine:
    """What runs the model, and how. Each kind has keys of its own (pipeline.core.tables.engines)."""

    kind: EngineKind = key(
        "What runs the engine. A plan of TensorRT is for the GPU of the machine that builds it; one of TensorRT-RTX is "
        "for several generations of GPUs and can be built without one."
    )
    provider: str | None = key("Execution provider.", default=None, allowed=PROVIDERS)
    lower: bool = key(
        "Whether to rewrite the graph with ONNX Runtime's own operators, which read only the used part of the cache.",
        default=False,
    )  # fmt: skip
    int8_activations: bool = key(
        "Whether products with quantized weights also round their input to 8 bits, in blocks: faster, less exact.",
        default=False,
    )  # fmt: skip
    window_cache: bool = key(
        "Whether layers with a sliding window keep the tokens in it only: less memory, and less time per token after "
        "many tokens. Tokens cannot be taken back then. It needs lower=true and the CPU.",
        default=False,
    )  # fmt: skip
    optimization: Optimization = key("Graph optimization level when the engine is loaded.", default=Optimization.all)
    threads: int = key(  # ONNX Runtime starts them all, and a million takes minutes to fail
        "Threads within an operator; 0 takes all cores.", Interval(0, 1024), default=0
    )
    targets: list[float] = key(
        "Compute capabilities that the plan is built for, such as 8.6 (RTX 30), 8.9 (RTX 40) and 12.0 (RTX 50). "
        "It runs on no others.",
        default=list,
    )  # fmt: skip
    workspace_gb: float | None = key(
        "Most GPU memory that a layer may take for intermediate results, in GB (2^30 bytes); null for no limit.",
        POSITIVE, default=None,
    )  # fmt: skip


@dataclass
class Wrap:
    """Stage wrap: the model behind the graph contract, as an exported program."""

    logits: Logits = key("Positions that get logits: each row's last real token, or all new tokens.")


@dataclass
class Export:
    """Stage export: the portable ONNX graph."""

    opset: int = key(
        "Version of the ONNX operator set. 24 is the first with TensorScatter, which writes the cache in place.",
        allowed=OPSETS,
    )


@dataclass
class Simplify:
    """Stage simplify: onnxsim in a subprocess. When it fails or exceeds a limit, the graph stays as it is."""

    enabled: bool = key("Whether to simplify at all.")
    skip: list[str] = key("Optimization passes of onnxsim to leave out, such as [fuse_bn_into_conv].", default=list)
    memory_gb: float = key("Most memory that the subprocess may take, in GB (2^30 bytes).", POSITIVE)
    timeout_s: float = key("Longest time that it may take, in seconds.", POSITIVE)


@dataclass
class Calibration:
    """The text that gptq reads, and that a quantized cache's scales are found on."""

    text: str | None = key("Path of a UTF-8 file; null for Python's own documentation.", default=None)
    tokens: int = key("Tokens of it that are read, from its end; verify.quality reads from the beginning.", COUNT)


@dataclass
class Quantize:
    """Stage quantize: weights of fewer bits, in standard operators."""

    weights: Weights = key("Type of the linear layers' weights; none leaves all weights in the compute type.")
    block_size: int = key(
        "Neighbouring weights of an output channel that share a scale; 0 for the whole channel. A layer whose input "
        f"is not a multiple of it takes a smaller one that fits, or int8. Accepted sizes: {BLOCK_SIZES}.",
    )
    symmetric: bool = key("Whether int4's grids are centred on 0; false gives each block an offset: closer, larger.")
    embedding: Embedding = key("Type of the embedding and the LM head, with one scale per token.")
    gguf_blocks: bool = key(
        "Whether the integers of a quantized checkpoint, GGUF or other, are kept exactly, in place of being rounded "
        "again by the other keys. int4 keeps what needs more bits in 8; int8 keeps what needs more than 4."
    )
    rounding: Rounding = key(
        "How linear layers' weights become whole numbers: nearest, each by itself, or gptq, which reads a text and "
        "lets later weights compensate for the errors of earlier ones."
    )
    calibration: Calibration = key("The text that gptq and a quantized cache's scales read.", default=Calibration)


@dataclass
class Gates:
    """The largest differences from the original."""

    logits_error: float = key(
        "Largest error of any logit, in standard deviations of the original's logits at its position.", NOT_NEGATIVE
    )
    kl: float = key("Largest Kullback-Leibler divergence of the next-token distribution, in nats.", NOT_NEGATIVE)
    cache_error: float = key(
        "Largest error of any written cache slot, as a share of the largest number in its channel.", NOT_NEGATIVE
    )
    greedy_agreement: float = key("Smallest share of greedy tokens that equal the original's.", SHARE)


@dataclass
class Quality:
    """The engine over a real text, beside the original in fp32, and whether generated text repeats itself."""

    text: str | None = key("Path of a UTF-8 file; null for Python's own documentation (help()).", default=None)
    tokens: int = key("Tokens of it that are read, 2 or more; 0 to measure no quality.", NOT_NEGATIVE)
    window: int = key("Tokens that are read from an empty cache at a time; at most cache.size.", Interval(2))
    perplexity: float = key("Largest relative increase of perplexity over the original's.", NOT_NEGATIVE)
    perplexity_carried_over: float | None = key(
        "The same where every 4-bit weight is the checkpoint's own; null for the value of perplexity.",
        NOT_NEGATIVE, default=None,
    )  # fmt: skip
    kl: float = key("Largest mean Kullback-Leibler divergence of the next-token distribution, in nats.", NOT_NEGATIVE)
    top1: float = key("Smallest share of tokens where both rank the same next token first.", SHARE)
    added_repetition: float = key(
        "Largest increase, over the original's text for the same prompt, of the share of a greedy text's 4-grams that "
        "occurred in it before; 1 allows everything. A loop of 32 tokens or less has a share of 0.74 or more.",
        SHARE,
    )


@dataclass
class CacheLimits:
    """What a cache of few bits may cost: a gate of its artifacts is never narrower than this."""

    logits_error: float = key("As verify.gates.logits_error.", NOT_NEGATIVE)
    kl: float = key("As verify.gates.kl.", NOT_NEGATIVE)
    cache_error: float = key("As verify.gates.cache_error.", NOT_NEGATIVE)
    greedy_agreement: float = key("As verify.gates.greedy_agreement.", SHARE)
    perplexity_increase: float = key("As verify.quality.perplexity.", NOT_NEGATIVE)
    mean_kl: float = key("As verify.quality.kl.", NOT_NEGATIVE)
    top1: float = key("As verify.quality.top1.", SHARE)


@dataclass
class CacheGates:
    """Gates of the artifacts with a quantized cache, by cache.dtype."""

    int8: CacheLimits = key("With a cache of 8 bits.", default=CacheLimits)
    int4: CacheLimits = key("With a cache of 4 bits.", default=CacheLimits)


@dataclass
class Verify:
    """Stage verify: every artifact against the original model in fp32. A missed gate fails the stage."""

    gates: Gates = key("Gates of the artifacts before weights are quantized.", default=Gates)
    quantized_gates: Gates = key("The same with quantized weights; by default those of verify.gates.", default=Gates)
    cache_gates: CacheGates = key(
        "What a quantized cache may cost: each of its artifacts' gates is this one or the one above, whichever allows "
        "more.",
        default=CacheGates,
    )  # fmt: skip
    headroom: float = key(
        "A row that misses a gate of errors still passes when its error is at most this many times the error that "
        "rounding to the compute type causes in the original on that row; 0 turns this off. Some models, and some "
        "tokens, amplify rounding a thousandfold.",
        NOT_NEGATIVE,
    )
    quality: Quality = key("The engine over a real text, beside the original in fp32.", default=Quality)
    prompts: list[str] = key("Texts that are continued greedily: one by one, and as one ragged batch.", default=list)
    greedy_tokens: int = key("Greedy tokens generated per prompt; at most cache.size.", COUNT)
    seed: int = key("Seed of the random tokens and cache contents of the test cases.", SEED)


@dataclass
class Bench:
    """Stage bench: the engine's speed."""

    batch: int = key("Rows generated at once; inside both profiles.", COUNT)
    prompt: int = key("Prompt length in tokens; inside the prefill profile.", COUNT)
    new_tokens: int = key("Tokens generated after the prompt; together they must fit into the cache.", COUNT)
    repeats: int = key("How often the whole is run; the reported figure is the median.", COUNT)


@dataclass
class Goal:
    """What a sweep is to find, instead of building every point to its end. It does not belong to a point."""

    find: Find | None = key(
        "The smallest engine, or the one that decodes fastest, of those within the limits; null builds all points.",
        default=None,
    )
    perplexity: float = key(
        "By how much an engine's perplexity may exceed the original's, as a share of it.", NOT_NEGATIVE, default=0.01
    )
    memory_gb: float | None = key(
        "Memory that the engine may take at most while it runs, in 2^30 bytes, as stage bench measures it.",
        POSITIVE, default=None,
    )  # fmt: skip


@dataclass
class Config:
    """All that a point declares; the keys of conf/config.yaml."""

    point: str | None = key("Name of the point; null derives it from the overrides.", default=None)
    check_size: bool = key(
        "Whether `python -m pipeline` refuses a build that needs more memory than this machine or container has, or "
        "more disk than is free, as far as `python -m pipeline.plan` knows.",
        default=True,
    )
    goal: Goal = key("What a sweep is to find.", default=Goal)
    model: Model = key("The checkpoint, and how to load it.", default=Model)
    axes: Axes = key("The largest sizes of the symbolic axes.", default=Axes)
    cache: Cache = key("The static KV cache.", default=Cache)
    precision: Precision = key("The type that is computed in.", default=Precision)
    profile: Profile = key("The shapes that the engine is built for.", default=Profile)
    engine: Engine = key("What runs the model, and how.", default=Engine)
    wrap: Wrap = key("Stage wrap.", default=Wrap)
    export: Export = key("Stage export.", default=Export)
    simplify: Simplify = key("Stage simplify.", default=Simplify)
    quantize: Quantize = key("Stage quantize.", default=Quantize)
    verify: Verify = key("Stage verify.", default=Verify)
    bench: Bench = key("Stage bench.", default=Bench)


Section = TypeVar("Section")


def section(kind: type[Section], folder: Path = Path()) -> Section:
    """Read one section of `folder`/params.yaml as its dataclass: `section(Cache).size`.

    A stage may read only the sections that dvc.yaml declares for it (tests/test_dvc_yaml.py compares them).
    Raises UserError when the file is missing.
    """
    path = folder / PARAMS
    if not path.exists():
        raise UserError(Problem("the point has not been composed", str(path), "dvc repro"))
    values = cast(DictConfig, OmegaConf.load(path))[kind.__name__.lower()]
    return cast(Section, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), values)))
