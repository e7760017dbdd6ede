"""compare judges: numbers of a sound program are changed at one place, and the place is named."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.checkpoint import loading
from pipeline.core.arrays import Array, Floats
from pipeline.core.contract import contract_for
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Model, Source
from pipeline.model import decoder
from pipeline.model.tracing import trace
from pipeline.proof.cases import Case
from pipeline.proof.compare import SENTINEL, ReferenceAnswers, run_case, run_greedy
from pipeline.proof.reference import Reference
from pipeline.runtime.session import Runtime, Session
from pipeline.runtime.torch import Torch
from tests.support.architectures import ARCHITECTURES
from tests.support.gates import held

HELD = held(logits_error=1e-4, kl=1e-8, cache_error=1e-4, added_repetition=0.5)
CASE = Case("two rows", (3, 0), ((4, 7), (1, 1), (2, 1)))
CACHES = 6  # key and value of three layers


@pytest.fixture(scope="module", params=["last", "all"])
def sound(request: pytest.FixtureRequest) -> tuple[Torch, ReferenceAnswers]:
    """A tiny Llama's program and the original's answers."""
    model = Model(source=Source.random, architecture="llama", config=ARCHITECTURES["llama"])
    original, other = (loading.load(model, None) for _ in range(2))
    layers = decoder.cache_shapes(original, 64)
    contract = contract_for(layers, 128, "fp32", request.param, {"batch": 4, "sequence": 32})
    program = trace(decoder.Decoder(other, request.param).eval(), contract)
    return Torch(program, contract, Profiles.of_axes(contract)), ReferenceAnswers(Reference(original), contract, seed=0)


@dataclass
class Damaged(Runtime):
    """A sound runtime whose sessions' logits or caches are changed: logits after step number n, caches when read."""

    sound: Torch
    logits: Callable[[int, Floats], None] = lambda _, __: None
    caches: Callable[[list[Array]], None] = lambda _: None

    def __post_init__(self) -> None:
        self.contract, self.profiles = self.sound.contract, self.sound.profiles

    def session(self, batch: int) -> Session:
        session = self.sound.session(batch)
        step, read_caches, count = session.step, session.read_caches, iter(range(1000))

        def damaged_step(tokens: list[list[int]]) -> Floats:
            logits = step(tokens).copy()
            self.logits(next(count), logits)
            return logits

        def damaged_read_caches() -> list[Array]:
            caches = [cache.copy() for cache in read_caches()]
            if session.lengths.max() > max(CASE.cached):  # not before the case has begun
                self.caches(caches)
            return caches

        session.step, session.read_caches = damaged_step, damaged_read_caches  # type: ignore[method-assign, assignment]
        return session


def test_a_sound_program_passes(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """Figures of rounding, and nothing else."""
    runtime, answers = sound
    result = run_case(CASE, Damaged(runtime), answers, HELD)
    assert result.failures == []
    assert 0 < result.figures["logits_error"] < 1e-4
    assert 0 < result.figures["cache_error"] < 1e-4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("step", [0, 1, 2])
def test_logits_that_are_not_finite(sound: tuple[Torch, ReferenceAnswers], value: float, step: int, row: int) -> None:
    """One logit of one row in one step, beside sound ones before and after."""
    runtime, answers = sound

    def damage(number: int, logits: Floats) -> None:
        if number == step:
            logits[row, 0, 5] = value

    result = run_case(CASE, Damaged(runtime, logits=damage), answers, HELD)
    assert result.failures == [f"logits, step {step}, row {row} is not finite"]


@pytest.mark.parametrize("cache", range(CACHES))
@pytest.mark.parametrize(("row", "head", "slot"), [(0, 0, 3), (0, 1, 9), (1, 0, 8), (1, 1, 0)])
def test_a_cache_that_is_not_finite(
    sound: tuple[Torch, ReferenceAnswers], cache: int, row: int, head: int, slot: int
) -> None:
    """One number of one head and slot, in any layer, of keys or values."""
    runtime, answers = sound

    def damage(caches: list[Array]) -> None:
        caches[cache][row, head, slot, 2] = np.nan

    result = run_case(CASE, Damaged(runtime, caches=damage), answers, HELD)
    name = f"past_key_values.{cache // 2}.{('key', 'value')[cache % 2]}, row {row}"
    assert result.failures == [f"{name} is not finite"]


@pytest.mark.parametrize(("row", "slot", "which"), [(0, 1, "before 3"), (0, 63, "from 10 on"), (1, 40, "from 10 on")])
def test_a_slot_that_is_not_the_steps_own(
    sound: tuple[Torch, ReferenceAnswers], row: int, slot: int, which: str
) -> None:
    """The past of a row, and the slots that hold nothing, are as they were."""
    runtime, answers = sound

    def damage(caches: list[Array]) -> None:
        caches[4][row, 0, slot] = SENTINEL + 1

    result = run_case(CASE, Damaged(runtime, caches=damage), answers, HELD)
    assert result.failures == [f"past_key_values.2.key, row {row}: slots {which} were changed"]


@pytest.mark.parametrize("sound", ["all"], indirect=True)
def test_padding_has_logits_of_zero(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """With wrap.logits=all, whose contract says so: row 0 has 4 tokens in a step of 7."""
    runtime, answers = sound

    def damage(number: int, logits: Floats) -> None:
        if number == 0:
            logits[0, 5, 1] = 1

    result = run_case(CASE, Damaged(runtime, logits=damage), answers, HELD)
    assert result.failures == ["logits, step 0, row 0: logits at padding are not 0"]


def test_greedy_text_names_the_first_other_token(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """The row, the number of the new token, and both tokens."""
    runtime, answers = sound

    def damage(number: int, logits: Floats) -> None:
        if number == 3:
            logits[1, 0] = -logits[1, 0]

    prompts = [[1, 2, 3], [4, 5, 6]]
    assert run_greedy(prompts, 8, Damaged(runtime), answers, HELD).failures == []
    failure, *_ = run_greedy(prompts, 8, Damaged(runtime, logits=damage), answers, HELD).failures
    assert "row 1, first at new token 3" in failure
    assert "the original chooses" in failure


def test_greedy_text_of_numbers_that_are_not_finite(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """An infinite logit is the largest: the text may be right, and the engine is not."""
    runtime, answers = sound

    def damage(number: int, logits: Floats) -> None:
        if number == 2:
            logits[0, 0, logits[0, 0].argmax()] = np.inf

    result = run_greedy([[1, 2, 3]], 8, Damaged(runtime, logits=damage), answers, HELD)
    assert result.failures == ["logits, row 0, at new token 2 is not finite"]


def test_the_originals_own_text_is_generated_once(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """By the original itself, token for token as its choices along it; and taken from an artifact that agrees."""
    runtime, answers = sound
    own = answers.own_text([7, 8, 9], 12)
    assert answers.greedy([7, 8, 9], own) == own
    assert answers.own_text([7, 8, 9], 5) == own[:5]
    run_greedy([[9, 9]], 6, Damaged(runtime), answers, HELD)
    assert answers._own_text[9, 9] == answers.reference.generate([9, 9], 6)


def test_a_row_may_be_as_far_off_as_rounding_takes_the_original(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """Where it misses a gate; the report says what was allowed. Beyond that it fails, with both numbers."""
    runtime, answers = sound
    narrow = held(logits_error=1e-9, kl=1e-18, cache_error=1e-9)
    assert len(run_case(CASE, Damaged(runtime), answers, narrow).failures) == 3
    lenient = ReferenceAnswers(answers.reference, runtime.contract, seed=0, headroom=10)
    result = run_case(CASE, Damaged(runtime), lenient, narrow)
    assert result.failures == []
    assert result.widened.keys() == {"logits_error", "kl", "cache_error"}
    assert 1e-7 < result.widened["logits_error"] < 1e-3

    def damage(number: int, logits: Floats) -> None:
        if number == 1:
            logits[1, 0, 5] += 0.05

    failures = run_case(CASE, Damaged(runtime, logits=damage), lenient, narrow).failures
    assert len(failures) == 2
    assert "in logits, step 1, row 1, verify.gates.logits_error is 1e-09, and rounding in the original" in failures[0]


def test_however_sensitive_a_row_is_another_text_fails(sound: tuple[Torch, ReferenceAnswers]) -> None:
    """The allowance ends at half of how far off the answer to unrelated tokens is."""
    runtime, answers = sound
    lenient = ReferenceAnswers(answers.reference, runtime.contract, seed=0, headroom=1e9)

    def damage(number: int, logits: Floats) -> None:
        logits[:, 0] = np.roll(logits[:, 0], 1, axis=-1)

    def other(caches: list[Array]) -> None:
        for cache in caches:
            cache[:, :, 3:7] = np.roll(cache[:, :, 3:7], 1, axis=-1)

    failures = run_case(CASE, Damaged(runtime, logits=damage, caches=other), lenient, HELD).failures
    assert {failure.split()[0] for failure in failures} >= {"logits_error", "kl", "cache_error"}
