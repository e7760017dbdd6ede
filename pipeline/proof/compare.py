"""Run cases and prompts on an artifact and measure how far it is from the original."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.contract import GraphContract
from pipeline.core.dtypes import Floats
from pipeline.proof import sensitivity
from pipeline.proof.cases import Case
from pipeline.proof.distance import SMALLEST, Worst, cache_error, kl, logits_error
from pipeline.proof.reference import Answer, Reference
from pipeline.proof.repetition import repetition
from pipeline.proof.results import Limit, Limits, Result
from pipeline.runtime.session import Runtime, Session

SENTINEL = 100.0  # fills unused slots: far from any real key or value, so that a read of one shows
PAST_TEXT = 64  # tokens


@dataclass(frozen=True)
class Row:
    """One row of a case: its past, its tokens, and the original's answer.

    text: the first slots of each cache, which repeat in all `used`; none without a past. Kept in the place of the
    past itself: 8,192 slots of SmolLM2-135M's 30 layers are 0.4 GB a row.
    """

    text: list[Floats]
    used: int
    tokens: list[int]
    answer: Answer

    def past(self, cache: int) -> Floats:
        """What one cache holds at the start: [kv_heads, used, head_dim]."""
        return tiled(self.text[cache], self.used)


def tiled(text: Floats, used: int) -> Floats:
    """Slots repeated to `used` of them: [kv_heads, used, head_dim]."""
    return np.tile(text, (1, -(-used // text.shape[1]), 1))[:, :used]


class Truth:
    """The reference's answers, each asked for once and kept for all artifacts.

    headroom: how many times as far off as rounding takes the original itself an artifact may be, verify.headroom.
    """

    def __init__(self, reference: Reference, contract: GraphContract, seed: int, headroom: float = 0.0) -> None:
        self.reference = reference
        self.headroom = headroom
        self.caches = contract.caches
        self.vocab = int(contract.logits.shape[2])
        self.every_position = contract.logits.shape[1] != 1
        self.seed = seed
        self._rows: dict[tuple[Case, int], Row] = {}  # a case of one name may be shorter for an engine
        self._sensitivity: dict[tuple[Case, int], sensitivity.Sensitivity] = {}
        self._greedy: dict[tuple[int, ...], list[int]] = {}
        self._own_text: dict[tuple[int, ...], list[int]] = {}

    def row(self, case: Case, row: int) -> Row:
        """Past and random tokens of a row, the same in every run, and what the original makes of them."""
        if (case, row) not in self._rows:
            rng = np.random.default_rng([self.seed, row, *case.name.encode()])
            used = case.past[row]
            text = self._text(used, rng) if used else []
            tokens = rng.integers(0, self.vocab, sum(step[row] for step in case.steps)).tolist()
            positions = self._positions(case, row)
            answer = Answer(np.empty((0, self.vocab), np.float32), [cache[:, :0] for cache in text])
            if tokens:
                past = [tiled(cache, used) for cache in text]
                answer = self.reference.answer(past, tokens, positions)
            self._rows[case, row] = Row(text, used, tokens, answer)
        return self._rows[case, row]

    def _positions(self, case: Case, row: int) -> list[int]:
        """Which of a row's tokens have logits to be compared: the last of each step, or all."""
        counts = [step[row] for step in case.steps if step[row]]
        return list(range(sum(counts))) if self.every_position else [int(end) - 1 for end in np.cumsum(counts)]

    def allowed(self, case: Case, row: int, name: str) -> float:
        """How far off a figure of this row may be by its own sensitivity; 0.0 without headroom."""
        if not self.headroom:
            return 0.0
        key = case, row
        if key not in self._sensitivity:
            known = self.row(case, row)
            past = [known.past(i) for i in range(len(known.text))]
            given = self.reference, past, known.tokens, self._positions(case, row), known.answer
            self._sensitivity[key] = sensitivity.measure(*given, self.caches[0].dtype)
        found = self.headroom * self._sensitivity[key][name]
        return min(found, sensitivity.MOST[name]) if math.isfinite(found) else 0.0

    def _text(self, used: int, rng: np.random.Generator) -> list[Floats]:
        """The original's own keys and values for a short text, to be repeated to `used` slots.

        Random numbers are not a state that the model reaches, and differences grow from there.
        """
        text = rng.integers(0, self.vocab, min(used, PAST_TEXT)).tolist()
        caches = self.reference.answer([], text, [0]).caches
        # rounded to the cache's type, and so given to the original in fp32: both start from the same numbers
        return [t.astype(c.dtype).astype(np.float32) for t, c in zip(caches, self.caches, strict=True)]

    def greedy(self, prompt: list[int], generated: list[int]) -> list[int]:
        """The original's greedy choices along prompt + generated."""
        key = (*prompt, *generated)
        if key not in self._greedy:
            choices = self.reference.greedy([*prompt, *generated[:-1]], len(generated))
            self._greedy[key] = choices.tolist()
            if self._greedy[key] == generated:
                self._own_text[tuple(prompt)] = generated
        return self._greedy[key]

    def own_text(self, prompt: list[int], count: int) -> list[int]:
        """The original's own greedy text after a prompt, `count` tokens: what an artifact generated, where `greedy` has
        shown that they are the same; else the original generates it, for some seconds."""
        key = tuple(prompt)
        if len(self._own_text.get(key, [])) < count:
            self._own_text[key] = self.reference.generate(prompt, count)
        return self._own_text[key][:count]


def run_case(case: Case, runtime: Runtime, truth: Truth, limits: Limits) -> Result:
    """Run the steps of a case; compare logits at every step, and the whole cache at the end."""
    session = runtime.session(case.batch)
    rows = [truth.row(case, r) for r in range(case.batch)]
    caches = session.read_caches()
    for i, cache in enumerate(caches):
        cache[...] = SENTINEL
        for r, row in enumerate(rows):
            if row.used:
                cache[r, :, : row.used] = row.past(i)
    session.write_caches(caches)
    session.lengths[:] = case.past
    result = Result()
    judge = Judge(case, truth, limits, result)
    _compare_logits(case, session, rows, truth.every_position, judge)
    _compare_caches(case, session, rows, judge)
    judge.conclude()
    return result


class Judge:
    """Collects the errors of a case and holds each against its gate, or what the row's own sensitivity allows."""

    def __init__(self, case: Case, truth: Truth, limits: Limits, result: Result) -> None:
        self.case = case
        self.truth = truth
        self.limits = limits
        self.result = result
        self.worst = {name: Worst() for name in ("logits_error", "kl", "cache_error")}
        self.missed: dict[str, tuple[float, str]] = {}  # figure -> how many times its limit, and the failure

    def add(self, name: str, value: float, tensor: str, row: int) -> None:
        """An error of a tensor in a row."""
        self.worst[name].add(value, tensor)
        limit = self.limits[name]
        if value <= limit.value or not math.isfinite(value):
            return
        allowed = self.truth.allowed(self.case, row, name)
        if value <= allowed:
            self.result.widened[name] = max(allowed, self.result.widened.get(name, 0.0))
            return
        key = f"{limit.key} is {limit.value:g}"
        if allowed > limit.value:
            key += f", and rounding in the original itself allows {allowed:.3g}"
        excess = value / max(limit.value, allowed, SMALLEST)
        if excess > self.missed.get(name, (0.0, ""))[0]:
            self.missed[name] = excess, f"{name} is {value:.3g} in {tensor}, {key}"

    def conclude(self) -> None:
        """Write figures and failures into the result."""
        for name, worst in self.worst.items():
            self.result.figures[name] = worst.value
            if not math.isfinite(worst.value):
                self.result.nonfinite(worst.where)
            elif name in self.missed:
                self.result.failures.append(self.missed[name][1])


def _compare_logits(case: Case, session: Session, rows: list[Row], every_position: bool, judge: Judge) -> None:
    fed = [0] * case.batch  # tokens of each row so far
    compared = [0] * case.batch  # positions of each row's answer so far
    for number, step in enumerate(case.steps):
        logits = session.step([rows[r].tokens[fed[r] : fed[r] + n] for r, n in enumerate(step)])
        for r, count in enumerate(step):
            if not count:
                continue  # an idle row's logits mean nothing
            positions = count if every_position else 1
            where = f"logits, step {number}, row {r}"
            want = rows[r].answer.logits[compared[r] : compared[r] + positions]
            got = logits[r, :positions]
            fed[r], compared[r] = fed[r] + count, compared[r] + positions
            judge.add("logits_error", logits_error(got, want), where, r)
            judge.add("kl", kl(got, want), where, r)
            if logits[r, positions:].any():
                judge.result.failures.append(f"{where}: logits at padding are not 0")


def _compare_caches(case: Case, session: Session, rows: list[Row], judge: Judge) -> None:
    touched = []
    caches = session.read_caches()
    for r, row in enumerate(rows):
        start, end = case.past[r], case.past[r] + len(row.tokens)
        for i, (tensor, cache) in enumerate(zip(session.contract.caches, caches, strict=True)):
            name = f"{tensor.name}, row {r}"
            error = cache_error(cache[r, :, start:end].astype(np.float32), row.answer.caches[i])
            judge.add("cache_error", error, name, r)
            if row.used and not np.array_equal(cache[r, :, :start], row.past(i).astype(cache.dtype)):
                touched.append(f"{name}: slots before {start} were changed")
            if (cache[r, :, case.written(r) :] != SENTINEL).any():
                touched.append(f"{name}: slots from {case.written(r)} on were changed")
    judge.result.failures += touched[:3] + ([f"and {len(touched) - 3} more caches"] if len(touched) > 3 else [])


def run_greedy(
    prompts: Sequence[list[int]], count: int, runtime: Runtime, truth: Truth, limits: Limits, repetition_limit: float
) -> Result:
    """Generate `count` greedy tokens for a batch of prompts: the share of them that the original would have chosen too,
    and how much more the text repeats itself than the original's own. At a share of 1.0 the text equals the original's
    own, token for token.
    """
    session = runtime.session(len(prompts))
    generated: list[list[int]] = [[] for _ in prompts]
    new = list(prompts)
    result = Result()
    for step in range(count):
        logits = session.step(new)
        for row, tokens in enumerate(generated):
            last = logits[row, len(new[row]) - 1 if truth.every_position else 0]
            if not np.isfinite(last).all():
                result.nonfinite(f"logits, row {row}, at new token {step}")
                return result
            tokens.append(int(last.argmax()))
        new = [tokens[-1:] for tokens in generated]
    choices = [truth.greedy(prompt, tokens) for prompt, tokens in zip(prompts, generated, strict=True)]
    same = np.array(choices) == np.array(generated)
    where = "logits"
    if not same.all():
        row, token = np.argwhere(~same)[0]
        where += f", row {row}, first at new token {token}: {generated[row][token]}"
        where += f", the original says {choices[row][token]}"
    result.share("greedy_agreement", float(same.mean()), limits["greedy_agreement"], where)
    added = Worst()
    for row, (prompt, tokens) in enumerate(zip(prompts, generated, strict=True)):
        own = repetition(truth.own_text(prompt, count))
        added.add(max(0.0, repetition(tokens) - own), f"the text of row {row}, the original's own has {own:.2f}")
    result.figures["repetition"] = max(map(repetition, generated))
    result.gate("added_repetition", added, Limit(repetition_limit, "verify.quality.added_repetition"))
    return result
