"""profiles: all shapes out of a few ranges, and what is said about ranges that do not do."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.core import profiles
from pipeline.core.contract import contract_for
from pipeline.core.schema import Profile, Range, Shapes
from tests.support.mistakes import CONF, problems

RTX = "engine=tensorrt_rtx"
STATIC = "profile.decode={batch: {min: 1, opt: 1, max: 1}}"
CHUNK = "+profile.more.chunk={batch: {min: 1, opt: 1, max: 4}, sequence: {min: 17, opt: 64, max: 64}}"
WRONG = [
    (["profile.prefill.sequence.min=200"], "profile.prefill.sequence", "out of order: min 200, opt 128, max 512"),
    (["profile.decode.batch={min: 1, opt: 8, max: 4}"], "profile.decode.batch", "make it min <= opt <= max"),
    (["profile.prefill.sequence.max=1024"], "profile.prefill.sequence.max", "above axes.sequence=512"),
    (["profile.decode.batch.max=16"], "profile.decode.batch.max", "profile.decode.batch.max=8 at most"),
    (["profile.prefill.batch.min=0"], "profile.prefill.batch.min", "1 or more"),
    (
        ["profile.prefill.sequence.min=16"],
        "profile.prefill.sequence.min",
        "no profile takes sequence (at batch 1) 2 to 15",
    ),
    (
        ["profile.prefill.batch.min=3", "profile.prefill.batch.opt=4", "profile.decode.batch.max=1", "bench.batch=1"],
        "profile.prefill.batch.min",
        "no profile takes batch 2",
    ),
    (["profile.decode.sequence={min: 2, opt: 2, max: 4}"], "profile.decode.sequence.min", "one row and one token"),
    ([RTX, STATIC], "profile.decode.batch.max", "stores all weights again"),
    ([RTX, "axes=single", "profile=single"], "profile.decode.sequence.max", "profile.decode.sequence.max=2"),
    ([CHUNK.replace("opt: 64", "opt: 65")], "profile.more.chunk.sequence", "out of order: min 17, opt 65, max 64"),
    ([CHUNK.replace("max: 4", "max: 9")], "profile.more.chunk.batch.max", "above axes.batch=8"),
    ([CHUNK.replace("chunk", "decode")], "profile.more.decode", "there is a profile decode already"),
    (["+profile.more.chunk={batch: 3}"], "profile.more.chunk", "has not batch and sequence"),
    ([CHUNK.replace("min: 17", "min: 0")], "profile.more.chunk.sequence", "below 1"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_wrong_profile_names_its_key(overrides: list[str], where: str, says: str) -> None:
    """Each is found before any work, alone, under the key that fixes it."""
    if where.startswith("profile.prefill.batch.min") and "batch 2" in says:
        overrides = [*overrides, "profile.prefill.batch.max=8"]
    found = {problem.where: str(problem) for problem in problems(*overrides)}
    assert says in found[where]
    assert all(key.startswith(("profile.", "bench.")) for key in found)


def test_a_profile_can_be_added_by_name() -> None:
    """It takes part in the same rules, closes gaps, and comes after the two that every engine has."""
    composed = config.compose([CHUNK, "profile.decode.sequence.max=16"], CONF)
    profile = Profile(*(Shapes(Range(1, 1, 2), Range(1, 1, 2)) for _ in range(2)))
    profile.more = OmegaConf.to_container(composed.profile.more)
    assert composed.profile.more["chunk"].sequence.max == 64
    assert profiles.named(profile)["chunk"].sequence == Range(17, 64, 64)
    assert list(profiles.named(profile)) == ["prefill", "decode", "chunk"]


def test_one_static_profile_is_fine_for_onnxruntime() -> None:
    """It compiles nothing, so nothing is stored twice."""
    assert config.compose([STATIC], CONF).profile.decode.batch.max == 1


def test_every_input_has_its_shapes(tmp_path: Path) -> None:
    """Of 30 layers: 64 inputs in both profiles, the symbolic axes by the ranges, all other sizes as they are."""
    layer = ((3, 1024, 64), (3, 1024, 64))
    contract = contract_for([layer] * 30, 49152, "fp16", "last", {"batch": 8, "sequence": 512})
    profile = Profile(Shapes(Range(1, 2, 8), Range(1, 128, 512)), Shapes(Range(1, 1, 8), Range(1, 1, 1)))
    shapes = profiles.shapes(profile, contract)
    assert {name: len(inputs) for name, inputs in shapes.items()} == {"prefill": 64, "decode": 64}
    assert shapes["prefill"]["input_ids"] == ((1, 1), (2, 128), (8, 512))
    assert shapes["decode"]["cache_position"] == ((1,), (1,), (8,))
    assert shapes["prefill"]["past_key_values.29.value"] == ((1, 3, 1024, 64), (2, 3, 1024, 64), (8, 3, 1024, 64))
