"""profiles: all shapes out of a few ranges."""

import pytest

from pipeline.config import compose as config
from pipeline.core.contract import contract_for
from pipeline.core.profiles import Profiles, Sizes
from pipeline.core.schema import Profile, Range, Shapes
from tests.support.mistakes import CONF
from tests.support.profiles import profiles

PROFILE = Profile(Shapes(Range(1, 2, 8), Range(1, 128, 512)), Shapes(Range(1, 1, 8), Range(1, 1, 1)))
CHUNK = "+profile.more.chunk={batch: {min: 1, opt: 1, max: 4}, sequence: {min: 17, opt: 64, max: 64}}"


def test_a_profile_can_be_added_by_name() -> None:
    """It takes part in the same rules, closes gaps, and comes after the two that every engine has."""
    composed = config.compose([CHUNK, "profile.decode.sequence.max=16"], CONF)
    profile = Profile(*(Shapes(Range(1, 1, 2), Range(1, 1, 2)) for _ in range(2)))
    profile.more = dict(composed.profile.more)
    assert composed.profile.more["chunk"].sequence.max == 64
    named = Profiles.from_config(profile).by_name
    assert named["chunk"].sequence == Sizes(17, 64, 64)
    assert list(named) == ["prefill", "decode", "chunk"]


def test_every_input_has_its_shapes() -> None:
    """Of 30 layers: 64 inputs in both profiles, the symbolic axes by the ranges, all other sizes as they are."""
    layer = {"key": (3, 1024, 64), "value": (3, 1024, 64)}
    contract = contract_for([layer] * 30, 49152, "fp16", "last", {"batch": 8, "sequence": 512})
    shapes = Profiles.from_config(PROFILE).shapes(contract)
    assert {name: len(inputs) for name, inputs in shapes.items()} == {"prefill": 64, "decode": 64}
    assert shapes["prefill"]["input_ids"] == ((1, 1), (2, 128), (8, 512))
    assert shapes["decode"]["cache_position"] == ((1,), (1,), (8,))
    assert shapes["prefill"]["past_key_values.29.value"] == ((1, 3, 1024, 64), (2, 3, 1024, 64), (8, 3, 1024, 64))


def test_engine_json_gives_the_same_back() -> None:
    """In the order of a plan's profiles."""
    found = Profiles.from_config(PROFILE)
    raw = found.to_json()
    assert raw["prefill"] == {"batch": {"min": 1, "opt": 2, "max": 8}, "sequence": {"min": 1, "opt": 128, "max": 512}}
    assert Profiles.from_json(raw) == found
    assert list(Profiles.from_json(raw).by_name) == list(raw)


TAKEN = profiles(prefill=((1, 8), (2, 512)), decode=((1, 3), (1, 1)), chunk=((2, 4), (16, 64)))


@pytest.mark.parametrize(
    ("sizes", "admitted", "of"),
    [
        ({"batch": 8, "sequence": 512}, True, ["prefill"]),
        ({"batch": 8, "sequence": 1}, False, []),
        ({"batch": 3, "sequence": 1}, True, ["decode"]),
        ({"batch": 4, "sequence": 64}, True, ["prefill", "chunk"]),
        ({"batch": 2}, True, ["prefill", "decode", "chunk"]),
        ({"batch": 9}, False, []),
        ({"sequence": 513}, False, []),
    ],
)
def test_what_profiles_admit(sizes: dict[str, int], admitted: bool, of: list[str]) -> None:
    """One profile must take all sizes; an axis that is not given is any size."""
    assert TAKEN.admits(**sizes) == admitted
    assert list(TAKEN.admitting(**sizes).by_name) == of


def test_the_tightest_profile_wins() -> None:
    """By its longest sequence, then its largest batch, then by its place."""
    assert [TAKEN.tightest(batch, sequence) for batch, sequence in ((1, 1), (1, 2), (2, 16), (8, 64))] == [1, 0, 2, 0]
    assert profiles(a=((1, 8), (1, 4)), b=((1, 4), (1, 4)), c=((1, 4), (1, 4))).tightest(1, 1) == 1
    with pytest.raises(ValueError, match="empty"):
        TAKEN.tightest(9, 1)


def test_largest_sizes() -> None:
    """Each axis by itself: no one profile needs to have both."""
    assert TAKEN.max_sizes() == {"batch": 8, "sequence": 512}
    assert TAKEN.admitting(sequence=1).max("batch") == 3
    assert TAKEN.widened(5).max_sizes() == {"batch": 8, "sequence": 512}
    assert TAKEN.widened(5).admitting(sequence=1).max("batch") == 5


def test_a_model_that_was_built_for_no_profiles() -> None:
    """It takes what its axes declare, from 1 on."""
    contract = contract_for(
        [{"key": (1, 16, 8), "value": (1, 16, 8)}], 100, "fp32", "last", {"batch": 3, "sequence": 12}
    )
    found = Profiles.of_axes(contract)
    assert found.admits(batch=3, sequence=12)
    assert not found.admits(batch=4)
    assert not found.admits(sequence=0)
