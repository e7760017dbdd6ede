"""Run cases and prompts on an artifact and compare it with the original."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.arrays import Floats
from pipeline.core.contract import GraphContract
from pipeline.proof import sensitivity
from pipeline.proof.cases import Case
from pipeline.proof.metrics import CACHES, COMPARISONS, LOGITS, SMALLEST, Comparison, Found
from pipeline.proof.reference import Expected, Reference
from pipeline.proof.repetition import repetition
from pipeline.proof.results import Limits, Result, Written
from pipeline.runtime import quantized_cache
from pipeline.runtime.session import Runtime, Session

SENTINEL = 100.0  # fills unused slots: far from any real key or value, so that a read of one shows
PREFIX = 64  # tokens


@dataclass(frozen=True)
class Row:
    """One row of a case: what its cache holds at the start, its tokens, and the original's answer.

    prefix: the first slots of each cache, which repeat in all `used`; none for an empty cache. Kept in place of all
    the slots: 8,192 of SmolLM2-135M's 30 layers are 0.4 GB a row. A model with states has read real tokens, `before`,
    and prefix is all slots; states: those at the start, none for an empty cache.
    """

    prefix: list[Floats]
    used: int
    tokens: list[int]
    expected: Expected
    before: list[int]
    states: list[Floats]

    def cached_slots(self, cache: int) -> Floats:
        """The slots of one cache at the start: [kv_heads, used, head_dim]."""
        return tiled(self.prefix[cache], self.used)


def tiled(prefix: Floats, used: int) -> Floats:
    """Slots repeated to `used` of them: [kv_heads, used, head_dim]."""
    return np.tile(prefix, (1, -(-used // prefix.shape[1]), 1))[:, :used]


class ReferenceAnswers:
    """The reference's answers, each computed once and kept for all artifacts.

    headroom: verify.headroom, how many times as far off an artifact may be as rounding takes the original itself.
    """

    def __init__(self, reference: Reference, contract: GraphContract, seed: int, headroom: float = 0.0) -> None:
        self.reference = reference
        self.headroom = headroom
        self.contract = contract
        self.vocab = int(contract.logits.shape[2])
        self.every_position = contract.logits.shape[1] != 1
        self.seed = seed
        self._rows: dict[tuple[Case, int], Row] = {}  # a case of one name may be shorter for an engine
        self._sensitivity: dict[tuple[Case, int], sensitivity.Sensitivity] = {}
        self._greedy: dict[tuple[int, ...], list[int]] = {}
        self._own_text: dict[tuple[int, ...], list[int]] = {}

    def row(self, case: Case, row: int) -> Row:
        """A row of a case with random tokens, the same in every run, and the original's answer to them."""
        if (case, row) not in self._rows:
            rng = np.random.default_rng([self.seed, row, *case.name.encode()])
            used = case.cached[row]
            before, prefix, states = self._prefix(used, rng) if used else ([], [], [])
            tokens = rng.integers(0, self.vocab, sum(step[row] for step in case.steps)).tolist()
            expected = Expected(np.empty((0, self.vocab), np.float32), [cache[:, :0] for cache in prefix], states)
            if tokens:
                cached = [] if before else [tiled(cache, used) for cache in prefix]
                expected = self.reference.answer(cached, tokens, self._positions(case, row), before)
            self._rows[case, row] = Row(prefix, used, tokens, expected, before, states)
        return self._rows[case, row]

    def _positions(self, case: Case, row: int) -> list[int]:
        """Which of a row's tokens have logits to compare: the last of each step, or all."""
        counts = [step[row] for step in case.steps if step[row]]
        return list(range(sum(counts))) if self.every_position else [int(end) - 1 for end in np.cumsum(counts)]

    def allowed(self, case: Case, row: int, metric: Comparison) -> float:
        """The distance from perfect that this row's own sensitivity allows; 0.0 without headroom."""
        if not self.headroom:
            return 0.0
        key = case, row
        if key not in self._sensitivity:
            known = self.row(case, row)
            cached = [] if known.before else [known.cached_slots(i) for i in range(len(known.prefix))]
            given = self.reference, cached, known.tokens, self._positions(case, row), known.before, known.expected
            self._sensitivity[key] = sensitivity.measure(*given, self.contract.compute)
        allowed = self.headroom * self._sensitivity[key][metric.name]
        return min(allowed, metric.widest) if math.isfinite(allowed) else 0.0

    def _prefix(self, used: int, rng: np.random.Generator) -> tuple[list[int], list[Floats], list[Floats]]:
        """The original's own keys and values for a short text, to be repeated to `used` slots. For a model with states
        a text of `used` tokens, its keys and values, and the states after it: transformers continues some states by
        another rule than it reads a text with, so the original reads that text again with the tokens that follow.

        Random numbers are not a state that the model reaches, and differences grow from there.
        """
        states = self.contract.states
        text = rng.integers(0, self.vocab, used if states else min(used, PREFIX)).tolist()
        answer = self.reference.answer([], text, [0])
        # rounded to the cache's type, and given to the original in fp32 so: both start from the same numbers
        pairs = zip(answer.caches, self.contract.caches, strict=True)
        caches = [keys.astype(tensor.dtype).astype(np.float32) for keys, tensor in pairs]
        return text if states else [], caches, answer.states

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
        """The original's own greedy text of `count` tokens after a prompt. It is an artifact's text where `greedy` has
        shown that they are equal; otherwise the original generates it, which takes seconds."""
        key = tuple(prompt)
        if len(self._own_text.get(key, [])) < count:
            self._own_text[key] = self.reference.generate(prompt, count)
        return self._own_text[key][:count]


def run_case(case: Case, runtime: Runtime, answers: ReferenceAnswers, limits: Limits) -> Result:
    """Run the steps of a case; compare logits at every step, and the whole cache at the end."""
    session = runtime.session(case.batch)
    rows = [answers.row(case, r) for r in range(case.batch)]
    if session.shows_caches:
        _fill_caches(session, rows)
        _fill_states(session, rows)
    session.lengths[:] = case.cached
    result = Result()
    judge = Judge(case, answers, limits, result)
    _compare_logits(case, session, rows, answers.every_position, judge)
    if session.shows_caches:
        _compare_caches(case, session, rows, judge)
        _compare_states(session, rows, judge)
    judge.conclude()
    return result


def _fill_caches(session: Session, rows: list[Row]) -> None:
    """Put each row's cached slots into the caches, and a sentinel into the others."""
    caches = session.read_caches()
    for i, cache in enumerate(caches):
        cache[...] = SENTINEL
        for r, row in enumerate(rows):
            if row.used:
                contract, tensor = session.contract, session.contract.caches[i]
                first = contract.dropped(tensor, row.used)
                held = quantized_cache.stored(contract, tensor, row.cached_slots(i)[:, first:])
                cache[r, :, : row.used - first] = held
    session.write_caches(caches)


def _fill_states(session: Session, rows: list[Row]) -> None:
    """Put each row's states at the start in place; a row without tokens keeps what is left from another text, as the
    session must clear it."""
    states = session.read_states()
    for i, state in enumerate(states):
        state[...] = SENTINEL
        for r, row in enumerate(rows):
            if row.states:
                state[r] = row.states[i]
    session.write_states(states)


class Judge:
    """Compares the tensors of a case. Each metric must pass its gate, or stay within what the row's own sensitivity
    allows."""

    def __init__(self, case: Case, answers: ReferenceAnswers, limits: Limits, result: Result) -> None:
        self.case = case
        self.answers = answers
        self.limits = limits
        self.result = result
        self.found: dict[str, list[Found]] = {metric.name: [] for metric in COMPARISONS}
        self.missed: dict[str, tuple[float, str]] = {}  # metric -> how many times its limit, and the failure

    def compare(self, metrics: Sequence[Comparison], got: Floats, want: Floats, tensor: str, row: int) -> None:
        """Measure a row's tensor by each of the metrics."""
        for metric in metrics:
            self._add(metric, metric.measure(got, want), tensor, row)

    def _add(self, metric: Comparison, value: float, tensor: str, row: int) -> None:
        name, limit = metric.name, self.limits[metric.name]
        self.found[name].append((value, tensor))
        if metric.passes(value, limit.value) or not math.isfinite(value):
            return
        distance, gate = metric.distance(value), metric.distance(limit.value)
        allowed = self.answers.allowed(self.case, row, metric)
        if distance <= allowed:
            before = self.result.widened.get(name, limit.value)
            self.result.widened[name], _ = metric.worst([(before, ""), (metric.distance(allowed), "")])
            return
        key = f"{limit.key} is {limit.value:g}"
        if allowed > gate:
            key += f", and rounding in the original itself allows {metric.distance(allowed):.3g}"
        excess = distance / max(gate, allowed, SMALLEST)
        if excess > self.missed.get(name, (0.0, ""))[0]:
            self.missed[name] = excess, f"{name} is {value:.4g} in {tensor}, {key}"

    def conclude(self) -> None:
        """Write figures and failures into the result."""
        for metric in COMPARISONS:
            if not self.found[metric.name]:
                continue  # caches that cannot be seen
            value, where = metric.worst(self.found[metric.name])
            self.result.record(metric.name, value)
            self.result.limits[metric.name] = self.limits[metric.name]
            if not math.isfinite(value):
                self.result.nonfinite(where)
            elif metric.name in self.missed:
                self.result.failures.append(self.missed[metric.name][1])


def _compare_logits(case: Case, session: Session, rows: list[Row], every_position: bool, judge: Judge) -> None:
    fed = [0] * case.batch  # tokens of each row so far
    compared = [0] * case.batch  # positions of each row's expected logits so far
    for number, step in enumerate(case.steps):
        logits = session.step([rows[r].tokens[fed[r] : fed[r] + n] for r, n in enumerate(step)])
        for r, count in enumerate(step):
            if not count:
                continue  # an idle row's logits mean nothing
            positions = count if every_position else 1
            where = f"logits, step {number}, row {r}"
            want = rows[r].expected.logits[compared[r] : compared[r] + positions]
            fed[r], compared[r] = fed[r] + count, compared[r] + positions
            judge.compare(LOGITS, logits[r, :positions], want, where, r)
            if logits[r, positions:].any():
                judge.result.failures.append(f"{where}: logits at padding are not 0")


def _compare_caches(case: Case, session: Session, rows: list[Row], judge: Judge) -> None:
    """Compare the slots of new tokens with the original's, and those before and after them with what was in them.

    A cache that keeps a sliding window only is compared on the tokens that it still holds.
    """
    touched = []
    caches = session.read_caches()
    for r, row in enumerate(rows):
        start, end = case.cached[r], case.cached[r] + len(row.tokens)
        for i, (tensor, cache) in enumerate(zip(session.contract.caches, caches, strict=True)):
            name = f"{tensor.name}, row {r}"
            first = session.contract.dropped(tensor, end)  # in slot 0
            judge.result.dropped = max(judge.result.dropped, first)
            held, old = cache[r, :, : end - first], max(start - first, 0)
            want = row.expected.caches[i][:, max(first - start, 0) :]
            contract = session.contract
            judge.compare(CACHES, quantized_cache.numbers(contract, tensor, held[:, old:]), want, name, r)
            before = row.cached_slots(i)[:, first:] if old else want[:, :0]
            if not np.array_equal(held[:, :old], quantized_cache.stored(contract, tensor, before)):
                touched.append(f"{name}: slots before {start} were changed")
            if not first and (cache[r, :, case.written(r) :] != SENTINEL).any():
                touched.append(f"{name}: slots from {case.written(r)} on were changed")
    judge.result.failures += touched[:3] + ([f"and {len(touched) - 3} more caches"] if len(touched) > 3 else [])


def _compare_states(session: Session, rows: list[Row], judge: Judge) -> None:
    """Compare the states of each row with the original's after the same tokens."""
    for tensor, state in zip(session.contract.states, session.read_states(), strict=True):
        for r, row in enumerate(rows):
            if row.expected.states:  # else it has had no token
                want = row.expected.states[session.contract.states.index(tensor)]
                judge.compare(CACHES, state[r].astype(np.float32), want, f"{tensor.name}, row {r}", r)


def run_greedy(
    prompts: Sequence[list[int]], count: int, runtime: Runtime, answers: ReferenceAnswers, limits: Limits
) -> Result:
    """Generate `count` greedy tokens for a batch of prompts. Measure the share of them that the original would have
    chosen too (at 1.0 the text is the original's own), and how much more the text repeats itself than the original's.
    """
    session = runtime.session(len(prompts))
    generated: list[list[int]] = [[] for _ in prompts]
    new = list(prompts)
    result = Result()
    for step in range(count):
        logits = session.step(new)
        for row, tokens in enumerate(generated):
            last = logits[row, len(new[row]) - 1 if answers.every_position else 0]
            if not np.isfinite(last).all():
                result.nonfinite(f"logits, row {row}, at new token {step}")
                return result
            tokens.append(int(last.argmax()))
        new = [tokens[-1:] for tokens in generated]
    choices = [answers.greedy(prompt, tokens) for prompt, tokens in zip(prompts, generated, strict=True)]
    same = np.array(choices) == np.array(generated)
    where = "the text"
    if not same.all():
        row, token = np.argwhere(~same)[0]
        where = f"row {row}, first at new token {token}: {generated[row][token]}"
        where += f", the original chooses {choices[row][token]}"
    result.gate("greedy_agreement", [(float(same.mean()), where)], limits["greedy_agreement"])
    added = []
    for row, (prompt, tokens) in enumerate(zip(prompts, generated, strict=True)):
        own = repetition(answers.own_text(prompt, count))
        where = f"the text of row {row}, the original's own has {own:.2f}"
        added.append((max(0.0, repetition(tokens) - own), where))
        result.written.append(Written(prompt, tokens, answers.own_text(prompt, count)))
    result.record("repetition", max(map(repetition, generated)))
    result.gate("added_repetition", added, limits["added_repetition"])
    return result
