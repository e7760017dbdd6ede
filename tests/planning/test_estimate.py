"""estimate: how the costs follow from sizes and configuration. benchmarks/plan.md compares them with real builds."""

from omegaconf import DictConfig

from pipeline.config.compose import compose
from pipeline.planning.model_sizes import ModelSizes
from tests.support.points import ROOT

LLAMA = ModelSizes(  # TinyLlama's
    parameters=1_100_048_384,
    embedding=65_536_000,
    head=65_536_000,
    linear=968_884_224,
    largest=11_534_336,
    hessians=22 * (3 * 2048**2 + 5632**2),
    cache_slot=22 * 2 * 4 * 64,
    layers=22,
    heads=32,
    hidden=2048,
    vocab=32000,
    stored_bytes=2_200_119_864,
)


def config(*overrides: str) -> DictConfig:
    """A configuration of the repository's conf/."""
    return compose(["point=x", *overrides], ROOT / "conf")
