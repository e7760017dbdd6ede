"""profiles: all shapes out of a few ranges."""

from pathlib import Path

from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.core import profiles
from pipeline.core.contract import contract_for
from pipeline.core.schema import Profile, Range, Shapes
from tests.support.mistakes import CONF

CHUNK = "+profile.more.chunk={batch: {min: 1, opt: 1, max: 4}, sequence: {min: 17, opt: 64, max: 64}}"


def test_a_profile_can_be_added_by_name() -> None:
    """It takes part in the same rules, closes gaps, and comes after the two that every engine has."""
    composed = config.compose([CHUNK, "profile.decode.sequence.max=16"], CONF)
    profile = Profile(*(Shapes(Range(1, 1, 2), Range(1, 1, 2)) for _ in range(2)))
    profile.more = OmegaConf.to_container(composed.profile.more)
    assert composed.profile.more["chunk"].sequence.max == 64
    assert profiles.named(profile)["chunk"].sequence == Range(17, 64, 64)
    assert list(profiles.named(profile)) == ["prefill", "decode", "chunk"]


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
