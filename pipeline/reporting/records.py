"""What the report says of a point. report.json holds these records, and the page shows nothing else."""

from dataclasses import dataclass, field
from typing import Any

VERIFIED = "verified"  # passed, and its engine ran
NOT_RUN = "not run"  # passed, but its engine is for another machine
FAILED = "failed"
OUTDATED = "out of date"  # built, but of parameters that have changed since
UNFINISHED = "unfinished"  # some stage has not run
UNBUILT = "not built"

Figures = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """One stage of a point.

    outcome: of the last `python -m pipeline` (ran, restored, unchanged, failed, skipped); empty where none is noted.
    seconds, peak: of its last run for this point on this machine; peak and disk in bytes, disk of what it wrote.
    planned_*: what pipeline.plan says, seconds by the runs before that one; None where it says nothing.
    """

    name: str
    outcome: str = ""
    why: tuple[str, ...] = ()
    error: str = ""
    seconds: float | None = None
    peak: int | None = None
    disk: int | None = None
    planned_seconds: float | None = None
    planned_peak: int | None = None
    planned_disk: int | None = None


@dataclass(frozen=True)
class Gate:
    """The worst value of a metric that passes, and the key that sets it."""

    value: float
    key: str


@dataclass(frozen=True)
class Case:
    """One case of an artifact. figures: by metric; those that are not finite are left out, and fail.

    tightest, share: the metric that came closest to its gate, and how much of it was used: 1 is the gate itself.
    widened: metrics that passed only by verify.headroom, and what that allowed.
    """

    name: str
    passed: bool
    figures: Figures = field(default_factory=dict)
    tightest: str = ""
    share: float | None = None
    widened: Figures = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    not_run: str = ""


@dataclass(frozen=True)
class Worst:
    """The worst value of a metric over an artifact's cases, the case that has it, and how much of its gate it uses."""

    value: float
    case: str
    share: float | None = None


@dataclass(frozen=True)
class Artifact:
    """What verify found of one artifact. skipped: why it was not run."""

    name: str
    passed: bool
    skipped: str
    gates: dict[str, Gate]
    worst: dict[str, Worst]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Operators:
    """The nodes of one artifact by operator, the most frequent first."""

    artifact: str
    nodes: int
    counts: dict[str, int]


@dataclass(frozen=True)
class Rounded:
    """Quantized weights of one form. carried_over: rows that are the checkpoint's own, as a share. error, worst_error:
    rms of the error relative to the rms of the weight, the median of the weights and the largest, of `worst`."""

    form: str
    weights: int
    bytes_before: int
    bytes_after: int
    carried_over: float
    error: float
    worst_error: float
    worst: str


@dataclass(frozen=True)
class Text:
    """What the engine writes after a prompt; original: what the original writes, None where it is the same."""

    prompt: str
    text: str
    original: str | None = None


@dataclass(frozen=True)
class Speed:
    """bench.json, in seconds, tokens per second and MB of 2^20 bytes. steps: (tokens in the cache, ms) of decode steps,
    medians of neighbours where there are many."""

    prefill_s: float
    decode_tok_s: float
    step_ms: float
    load_s: float
    peak_mb: float
    model_mb: float
    steps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Point:
    """All that the report says of one point.

    kind: the types of its weights, of its cache and its engine if those are not the usual: what tells points apart in
    the plots.
    settings: keys of params.yaml. cache_mb: the cache of one row, in MB of 2^20 bytes.
    """

    name: str
    state: str
    why: tuple[str, ...]
    overrides: tuple[str, ...]
    model: str = ""
    kind: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    built: str = ""
    host: str = ""
    stages: tuple[Stage, ...] = ()
    no_plan: str = ""  # why pipeline.plan says nothing of it
    artifacts: tuple[Artifact, ...] = ()
    notes: tuple[str, ...] = ()
    quality: Figures = field(default_factory=dict)
    speed: Speed | None = None
    not_measured: str = ""
    cache_mb: float | None = None
    operators: tuple[Operators, ...] = ()
    rounded: tuple[Rounded, ...] = ()
    texts: tuple[Text, ...] = ()

    @property
    def increase(self) -> float | None:
        """The relative increase of perplexity over the original."""
        return self.quality.get("perplexity_increase")

    @property
    def bench(self) -> tuple[int, int]:
        """The rows and the tokens of a prompt that its speed was measured with."""
        return self.settings["bench.batch"], self.settings["bench.prompt"]


@dataclass(frozen=True)
class Comparison:
    """Points of one model that were measured alike: rows, and tokens of the prompt.

    points: those with a speed and a perplexity, the fastest first. front: of these, the verified ones that no other
    verified one beats in both. chosen: the recommended one, None where no point can be. sentence: says it, with why.
    """

    model: str
    batch: int
    prompt: int
    points: tuple[str, ...]
    front: tuple[str, ...]
    chosen: str | None
    sentence: str


@dataclass(frozen=True)
class Report:
    """All that report.json holds. versions: of toolchain.json, of what is there."""

    points: tuple[Point, ...]
    comparisons: tuple[Comparison, ...]
    versions: dict[str, str]
