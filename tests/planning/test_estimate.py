"""estimate: how the costs follow from sizes and configuration. benchmarks/plan.md compares them with real builds."""

from dataclasses import replace

import pytest
from omegaconf import DictConfig

from pipeline.config.compose import compose
from pipeline.planning.estimate import GB, SMALL, Cost, costs, largest_in_memory, largest_on_disk, parts
from pipeline.planning.model_sizes import ModelSizes
from tests.support.points import ROOT

LLAMA = ModelSizes(  # TinyLlama's
    parameters=1_100_048_384,
    embedding=65_536_000,
    head=65_536_000,
    linear=968_884_224,
    experts=0,
    largest=11_534_336,
    inputs=22 * (3 * 2048 + 5632),
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


def test_the_largest_moments_of_a_build() -> None:
    """Of a checkpoint in bf16: wrap has it and fp32 at once, verify the original and the engine."""
    found = costs(config(), LLAMA)
    weights = 4 * LLAMA.parameters
    assert found["wrap"].held == pytest.approx(weights, rel=0.2)
    assert found["wrap"].memory == pytest.approx(weights + LLAMA.stored_bytes, rel=0.1)
    assert found["export"].held < GB
    assert found["verify"].held > 2 * weights
    assert found["verify"].held > max(cost.held for name, cost in found.items() if name != "verify")
    assert sum(cost.disk for cost in found.values()) == pytest.approx(4 * weights, rel=0.01)
    assert sum(cost.cached for cost in found.values()) == pytest.approx(2 * weights, rel=0.01)


def test_a_larger_cache_or_batch_takes_more_of_verify() -> None:
    """The caches of the largest batch, and of the text's rows."""
    default, longer = (costs(config(f"cache.size={size}"), LLAMA)["verify"].held for size in (1024, 2048))
    assert longer - default == 16 * 1024 * LLAMA.cache_slot * 4
    row = parts(config(), LLAMA)["cache_row"]
    assert row == 1024 * LLAMA.cache_slot * 4
    assert parts(config(), LLAMA)["caches"] == 8 * row


def test_sixteen_bits_take_half_of_the_disk() -> None:
    """And wrap as much memory as before: the model is loaded in fp32."""
    found, half = costs(config(), LLAMA), costs(config("precision=fp16"), LLAMA)
    assert half["wrap"].memory == found["wrap"].memory
    assert half["engine"].disk == pytest.approx(found["engine"].disk / 2, rel=0.01)


def test_caches_of_windows() -> None:
    """Half of the layers hold 512 tokens of 4,096: that takes 9/16 of the memory of whole caches."""
    sizes = replace(LLAMA, windowed_slot=LLAMA.cache_slot // 2, window=512)
    whole, narrow = (
        costs(config("cache.size=4096", f"engine.window_cache={on}"), sizes)["bench"] for on in ("false", "true")
    )
    assert whole.steps[1][0] - narrow.steps[1][0] == 7 / 16 * 4096 * LLAMA.cache_slot * 4


def test_experts_are_joined_and_put_in_order() -> None:
    """A checkpoint's experts are in memory twice while it is loaded; the engine has its own order of their rows."""
    dense, mixture = (costs(config(), replace(LLAMA, experts=count)) for count in (0, 10**8 * 2))
    assert mixture["verify"].steps[0][0] - dense["verify"].steps[0][0] == 8 * 10**8
    assert mixture["wrap"].held > dense["wrap"].held
    assert mixture["engine"].cached == mixture["engine"].disk > 100 * dense["engine"].cached


def test_quantized_weights() -> None:
    """Each format has its bits, with scales by block; what is not quantized keeps its type; gptq reads a text."""
    of = {name: costs(config(f"precision={name}"), LLAMA) for name in ("fp32", "int8", "int4")}
    weights = {name: found["quantize"].disk / LLAMA.parameters for name, found in of.items()}
    assert weights["fp32"] == 0
    assert weights["int8"] == pytest.approx(1, rel=0.02)
    # 4 bits, and two numbers in fp32 for 32 of them; 8 bits for the tables
    assert weights["int4"] == pytest.approx(0.75 + 0.03, rel=0.02)
    nearest = costs(config("precision=int4", "quantize.rounding=nearest"), LLAMA)["quantize"]
    assert of["int4"]["quantize"].held - nearest.held > 4 * LLAMA.hessians
    assert of["fp32"]["quantize"].memory < GB // 8


def test_the_largest_model_of_a_machine() -> None:
    """What doctor says agrees with the plan of that model."""
    found = costs(config(), LLAMA)
    assert largest_in_memory(found["verify"].held) == pytest.approx(LLAMA.parameters, rel=0.1)
    disk = sum(cost.disk + cost.cached for cost in found.values())
    assert largest_on_disk(disk) == pytest.approx(LLAMA.parameters, rel=0.01)


def test_the_largest_moment_counts() -> None:
    """Each with its own mapped files."""
    cost = Cost(((3, 4), (5, 1)))
    assert (cost.memory, cost.held) == (7, 5)


@pytest.mark.parametrize(("dtype", "share"), [("int8", 4), ("int4", 8)])
def test_a_quantized_cache_takes_its_share(dtype: str, share: int) -> None:
    """In the engine. Stage quantize then reads a text even if no weight is quantized."""
    plain, point = config(), config(f"cache.dtype={dtype}")
    assert parts(plain, LLAMA)["caches"] == share * parts(point, LLAMA)["caches"]
    assert costs(point, LLAMA)["quantize"].memory > costs(plain, LLAMA)["quantize"].memory
    assert costs(point, LLAMA)["quantize"].disk == costs(plain, LLAMA)["wrap"].disk - SMALL
