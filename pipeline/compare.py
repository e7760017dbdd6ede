"""Run cases and prompts on an artifact and measure how far it is from the original."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from pipeline.cases import Case
from pipeline.distance import Worst, cache_error, kl, logits_error
from pipeline.loops import repetition
from pipeline.reference import Answer, Reference
from pipeline.session import Floats, Runtime, Session
from pipeline.signature import Signature
from pipeline.spec import Gates

SENTINEL = 100.0  # in every slot that holds nothing: far off any key or value, so that reading one shows
PAST_TEXT = 64  # tokens
GATES = "verify.gates"
NOT_FINITE = "not finite"  # what every failure by a NaN or an infinity says


@dataclass(frozen=True)
class Limit:
    """The largest value of a figure that passes (the least, for a share), and the config key that sets it."""

    value: float
    key: str


Limits = Mapping[str, Limit]  # figure -> its limit


def limits(gates: Gates, section: str = GATES, least: Mapping[str, float] | None = None) -> Limits:
    """The gates of a config section; those of errors are at least what `least` says, where it names them."""
    found = {}
    for name, gate in asdict(gates).items():
        wider = (least or {}).get(name, 0.0)
        key = f"{section}.{name}"
        found[name] = Limit(wider, f"{key}, widened for this model,") if wider > gate else Limit(gate, key)
    return found


def for_json(figure: float) -> float | str:
    """The figure, or its name when it is no number: JSON knows no NaN."""
    return figure if np.isfinite(figure) else str(figure)


@dataclass
class Result:
    """One artifact in one case. `failures` name the tensor; the case passed when there are none.

    not_run: why the case was left out; empty when it ran. traceback: of what was raised, when the case did not end.
    not_finite: the first tensor that held a NaN or an infinity.
    """

    failures: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    not_run: str = ""
    traceback: str = ""
    not_finite: str = ""

    def gate(self, name: str, worst: Worst, limit: Limit) -> None:
        """Record a figure that must not exceed its limit; NaN exceeds all."""
        self.figures[name] = worst.value
        if not np.isfinite(worst.value):
            self.nonfinite(worst.where)
        elif not worst.value <= limit.value:
            self.failures.append(f"{name} is {worst.value:.3g} in {worst.where}, {limit.key} is {limit.value:g}")

    def share(self, name: str, least: float, limit: Limit, where: str) -> None:
        """The same for a figure that must not be below its limit."""
        self.figures[name] = least
        if not least >= limit.value:
            self.failures.append(f"{name} is {least:.4f}, {limit.key} is {limit.value:g}; {where}")

    def nonfinite(self, where: str) -> None:
        """Record a tensor that holds a NaN or an infinity."""
        self.not_finite = self.not_finite or where
        if (failure := f"{where} is {NOT_FINITE}") not in self.failures:
            self.failures.append(failure)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        if self.not_run:
            return {"not_run": self.not_run}
        figures = {name: for_json(value) for name, value in self.figures.items()}
        raised = {"traceback": self.traceback.splitlines()} if self.traceback else {}
        return {"passed": not self.failures, **figures, "failures": self.failures, **raised}


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
    """The reference's answers, each asked for once and kept for all artifacts."""

    def __init__(self, reference: Reference, signature: Signature, seed: int) -> None:
        self.reference = reference
        self.caches = signature.caches
        self.vocab = int(signature.logits.shape[2])
        self.every_position = signature.logits.shape[1] != 1
        self.seed = seed
        self._rows: dict[tuple[str, int], Row] = {}
        self._greedy: dict[tuple[int, ...], list[int]] = {}
        self._own_text: dict[tuple[int, ...], list[int]] = {}

    def row(self, case: Case, row: int) -> Row:
        """Past and random tokens of a row, the same in every run, and what the original makes of them."""
        if (case.name, row) not in self._rows:
            rng = np.random.default_rng([self.seed, row, *case.name.encode()])
            counts = [step[row] for step in case.steps]
            used = case.past[row]
            text = self._text(used, rng) if used else []
            tokens = rng.integers(0, self.vocab, sum(counts)).tolist()
            ends = list(np.cumsum([c for c in counts if c]) - 1)
            positions = list(range(len(tokens))) if self.every_position else ends
            answer = Answer(np.empty((0, self.vocab), np.float32), [cache[:, :0] for cache in text])
            if tokens:
                past = [tiled(cache, used) for cache in text]
                answer = self.reference.answer(past, tokens, positions)
            self._rows[case.name, row] = Row(text, used, tokens, answer)
        return self._rows[case.name, row]

    def _text(self, used: int, rng: np.random.Generator) -> list[Floats]:
        """The original's own keys and values for a short text, to be repeated to `used` slots.

        Random numbers would be no state that the model can come to, and differences grow in such a one.
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
    caches = session.fetch()
    for i, cache in enumerate(caches):
        cache[...] = SENTINEL
        for r, row in enumerate(rows):
            if row.used:
                cache[r, :, : row.used] = row.past(i)
    session.store(caches)
    session.lengths[:] = case.past
    result = Result()
    _compare_logits(case, session, rows, truth.every_position, limits, result)
    _compare_caches(case, session, rows, limits, result)
    return result


def _compare_logits(
    case: Case, session: Session, rows: list[Row], every_position: bool, limits: Limits, result: Result
) -> None:
    worst = {"logits_error": Worst(), "kl": Worst()}
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
            worst["logits_error"].add(logits_error(got, want), where)
            worst["kl"].add(kl(got, want), where)
            if logits[r, positions:].any():
                result.failures.append(f"{where}: logits at padding are not 0")
    for name, most in worst.items():
        result.gate(name, most, limits[name])


def _compare_caches(case: Case, session: Session, rows: list[Row], limits: Limits, result: Result) -> None:
    worst, touched = Worst(), []
    caches = session.fetch()
    for r, row in enumerate(rows):
        start, end = case.past[r], case.past[r] + len(row.tokens)
        for i, (tensor, cache) in enumerate(zip(session.signature.caches, caches, strict=True)):
            name = f"{tensor.name}, row {r}"
            worst.add(cache_error(cache[r, :, start:end].astype(np.float32), row.answer.caches[i]), name)
            if row.used and not np.array_equal(cache[r, :, :start], row.past(i).astype(cache.dtype)):
                touched.append(f"{name}: slots before {start} were changed")
            if (cache[r, :, case.written(r) :] != SENTINEL).any():
                touched.append(f"{name}: slots from {case.written(r)} on were changed")
    result.gate("cache_error", worst, limits["cache_error"])
    result.failures += touched[:3] + ([f"and {len(touched) - 3} more caches"] if len(touched) > 3 else [])


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
