"""rules_profiles: ranges out of order, gaps between profiles, and sizes outside of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pipeline.config import compose as config
from pipeline.config import rules
from pipeline.core.schema import Config, Range
from tests.support.mistakes import CONF, assert_one_problem, problems

RTX = "engine=tensorrt_rtx"
STATIC = "profile.decode={batch: {min: 1, opt: 1, max: 1}}"
CHUNK = "+profile.more.chunk={batch: {min: 1, opt: 1, max: 4}, sequence: {min: 17, opt: 64, max: 64}}"
WRONG = [
    (["profile.prefill.sequence.opt=600"], "profile.prefill.sequence", "out of order: min 1, opt 600, max 512"),
    (["profile.prefill.sequence.max=600"], "profile.prefill.sequence.max", "above axes.sequence=512"),
    (["profile.decode.batch.max=9"], "profile.decode.batch.max", "above axes.batch=8"),
    (["profile.decode.sequence={min: 2, opt: 2, max: 2}"], "profile.decode.sequence.min", "one row and one token"),
    (["profile.decode.batch={min: 2, opt: 2}", "bench.batch=2"], "profile.decode.batch.min", "one row and one token"),
    (["bench.prompt=513"], "bench.prompt", "outside profile.prefill.sequence, 1 to 512"),
    (["profile.decode.batch.max=1", "bench.batch=2"], "bench.batch", "outside profile.decode.batch, 1 to 1"),
]


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG, ids=lambda value: str(value)[:60])
def test_a_mistake_has_one_clear_message(overrides: list[str], where: str, says: str) -> None:
    """A single mistake gives a single problem that names the key, what was given, and the way out."""
    assert_one_problem(overrides, where, says)


@given(st.tuples(*[st.integers(-2, 600)] * 3))
def test_a_profile_is_accepted_exactly_when_it_is_in_order(ends: tuple[int, int, int]) -> None:
    """min, opt and max pass if and only if 1 <= min <= opt <= max <= the axis."""
    composed = OmegaConf.structured(Config)
    composed.profile.prefill.sequence = Range(*ends)
    composed.axes.sequence = 512
    found = [p for p in rules.check(composed, set()) if p.where.startswith("profile.prefill.sequence")]
    assert (found == []) == (1 <= ends[0] <= ends[1] <= ends[2] <= 512)


WRONG_IN_PLACES = [
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


@pytest.mark.parametrize(("overrides", "where", "says"), WRONG_IN_PLACES, ids=lambda value: str(value)[:60])
def test_a_wrong_profile_names_its_key(overrides: list[str], where: str, says: str) -> None:
    """Each is found before anything is built, under the key that fixes it, and no key outside of profile and bench is
    blamed."""
    if where.startswith("profile.prefill.batch.min") and "batch 2" in says:
        overrides = [*overrides, "profile.prefill.batch.max=8"]
    found = {problem.where: str(problem) for problem in problems(*overrides)}
    assert says in found[where]
    assert all(key.startswith(("profile.", "bench.")) for key in found)


def test_one_static_profile_is_fine_for_onnxruntime() -> None:
    """It compiles nothing, so nothing is stored twice."""
    assert config.compose([STATIC], CONF).profile.decode.batch.max == 1
