"""The typed schema: one dataclass per section of a point's params.yaml, and how a stage reads its sections.

A field's name is the user's config key. What the keys mean stands above each key in conf/; what combinations
are allowed is checked in pipeline.config.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import DictConfig, OmegaConf

from pipeline.core.engines import EngineKind
from pipeline.core.errors import Problem, UserError
from pipeline.core.layout import PARAMS

REQUIRED: Any = "???"  # OmegaConf's mark for a key that has no default


class Source(Enum):
    """Where a model comes from."""

    hub = "hub"
    local = "local"
    gguf = "gguf"
    random = "random"


class Compute(Enum):
    """Type of activations, weights and cache."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class Logits(Enum):
    """Which positions get logits."""

    last = "last"
    all = "all"


class Weights(Enum):
    """Type of the linear layers' weights; none leaves them in the compute type."""

    none = "none"
    int8 = "int8"
    int4 = "int4"
    fp8 = "fp8"
    nvfp4 = "nvfp4"


class Embedding(Enum):
    """Type of the embedding and the LM head; none leaves them. ONNX's Gather does not take int4."""

    none = "none"
    int8 = "int8"


class Rounding(Enum):
    """How linear layers' weights become whole numbers."""

    nearest = "nearest"
    gptq = "gptq"


class Optimization(Enum):
    """ONNX Runtime's graph optimization level when the engine is loaded."""

    none = "none"
    basic = "basic"
    extended = "extended"
    all = "all"


@dataclass
class Model:
    """The checkpoint, and how to load it."""

    source: Source = REQUIRED
    id: str | None = None
    revision: str = "main"
    path: str | None = None
    package: str | None = None
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    trust_remote_code: bool = False


@dataclass
class Axes:
    """How far the symbolic axes go."""

    batch: int = REQUIRED
    sequence: int = REQUIRED


@dataclass
class Cache:
    """The static KV cache."""

    size: int = REQUIRED


@dataclass
class Precision:
    """The types that are computed in."""

    compute: Compute = REQUIRED


@dataclass
class Range:
    """Smallest, tuned and largest size of one axis."""

    min: int = REQUIRED
    opt: int = REQUIRED
    max: int = REQUIRED


@dataclass
class Shapes:
    """The sizes of one kind of step."""

    batch: Range = field(default_factory=Range)
    sequence: Range = field(default_factory=Range)


@dataclass
class Profile:
    """The shapes that an engine is built for: two kinds of step, and more of them by name."""

    prefill: Shapes = field(default_factory=Shapes)
    decode: Shapes = field(default_factory=Shapes)
    more: dict[str, Any] = field(
        default_factory=dict
    )  # name -> keys of a Shapes; an override cannot add to a typed one


@dataclass
class Engine:
    """Who runs the model, and how; each kind has keys of its own."""

    kind: EngineKind = REQUIRED
    # onnxruntime
    provider: str | None = None
    lower: bool = False
    int8_activations: bool = False
    optimization: Optimization = Optimization.all
    threads: int = 0
    # tensorrt and tensorrt_rtx
    targets: list[float] = field(default_factory=list)
    workspace_gb: float | None = None


@dataclass
class Wrap:
    """Options of stage wrap."""

    logits: Logits = REQUIRED


@dataclass
class Export:
    """Options of stage export."""

    opset: int = REQUIRED


@dataclass
class Simplify:
    """Options of stage simplify."""

    enabled: bool = REQUIRED
    skip: list[str] = field(default_factory=list)
    memory_gb: float = REQUIRED
    timeout_s: float = REQUIRED


@dataclass
class Calibration:
    """What GPTQ sees the layers' inputs of."""

    text: str | None = None
    tokens: int = REQUIRED


@dataclass
class Quantize:
    """Options of stage quantize."""

    weights: Weights = REQUIRED
    block_size: int = REQUIRED
    symmetric: bool = REQUIRED
    embedding: Embedding = REQUIRED
    gguf_blocks: bool = REQUIRED
    rounding: Rounding = REQUIRED
    calibration: Calibration = field(default_factory=Calibration)


@dataclass
class Gates:
    """The largest differences from the original that verify lets pass."""

    logits_error: float = REQUIRED
    kl: float = REQUIRED
    cache_error: float = REQUIRED
    greedy_agreement: float = REQUIRED


@dataclass
class QuantizedGates:
    """Those of the artifacts whose weights are quantized; None: the one of Gates."""

    logits_error: float | None = None
    kl: float | None = None
    cache_error: float | None = None
    greedy_agreement: float | None = None


@dataclass
class Quality:
    """How good the engine's text must be, and what it is measured on."""

    text: str | None = None
    tokens: int = REQUIRED
    window: int = REQUIRED
    perplexity: float = REQUIRED
    perplexity_carried_over: float | None = None
    kl: float = REQUIRED
    top1: float = REQUIRED
    added_repetition: float = REQUIRED


@dataclass
class Verify:
    """Options of stage verify."""

    gates: Gates = field(default_factory=Gates)
    quantized_gates: QuantizedGates = field(default_factory=QuantizedGates)
    headroom: float = REQUIRED
    quality: Quality = field(default_factory=Quality)
    prompts: list[str] = field(default_factory=list)
    greedy_tokens: int = REQUIRED
    seed: int = REQUIRED


@dataclass
class Bench:
    """Options of stage bench."""

    batch: int = REQUIRED
    prompt: int = REQUIRED
    new_tokens: int = REQUIRED
    repeats: int = REQUIRED


@dataclass
class Config:
    """All that a point declares; the keys of conf/config.yaml."""

    point: str | None = None
    model: Model = field(default_factory=Model)
    axes: Axes = field(default_factory=Axes)
    cache: Cache = field(default_factory=Cache)
    precision: Precision = field(default_factory=Precision)
    profile: Profile = field(default_factory=Profile)
    engine: Engine = field(default_factory=Engine)
    wrap: Wrap = field(default_factory=Wrap)
    export: Export = field(default_factory=Export)
    simplify: Simplify = field(default_factory=Simplify)
    quantize: Quantize = field(default_factory=Quantize)
    verify: Verify = field(default_factory=Verify)
    bench: Bench = field(default_factory=Bench)


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
