"""Run cases and prompts on an artifact and measure how far it is from the reference."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import kl_div

from pipeline.cases import Case
from pipeline.loops import repetition
from pipeline.reference import Answer, Reference
from pipeline.session import Floats, Runtime, Session
from pipeline.signature import Signature
from pipeline.spec import Gates

SENTINEL = 100.0  # in every slot that holds nothing: far off any key or value, so that reading one shows
PAST_TEXT = 64  # tokens
GATES = "verify.gates"


def for_json(figure: float) -> float | str:
    """The figure, or its name when it is no number: JSON knows no NaN."""
    return figure if np.isfinite(figure) else str(figure)


@dataclass
class Result:
    """One artifact in one case. `failures` name the tensor; the case passed when there are none."""

    failures: list[str] = field(default_factory=list)
    crashed: bool = False
    figures: dict[str, float] = field(default_factory=dict)

    def gate(self, name: str, worst: float, limit: float, where: str, key: str) -> None:
        """Record a figure that must not exceed its gate, which stands under the config key `key`; NaN exceeds all."""
        self.figures[name] = worst
        if not worst <= limit:
            self.failures.append(f"{name} is {worst:.3g} in {where}, {key} is {limit:g}")

    def share(self, name: str, least: float, limit: float, where: str, key: str) -> None:
        """The same for a figure that must not be below its gate."""
        self.figures[name] = least
        if not least >= limit:
            self.failures.append(f"{name} is {least:.4f}, {key} is {limit:g}; {where}")

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        figures = {name: for_json(value) for name, value in self.figures.items()}
        return {"passed": not self.failures, **figures, "failures": self.failures}


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
        return self._greedy[key]


def run_case(case: Case, runtime: Runtime, truth: Truth, gates: Gates, group: str = GATES) -> Result:
    """Run the steps of a case; compare logits at every step, and the whole cache at the end.

    group: the config section that the gates stand in, for messages.
    """
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
    _compare_logits(case, session, rows, truth.every_position, gates, group, result)
    _compare_caches(case, session, rows, gates, group, result)
    return result


def _compare_logits(
    case: Case, session: Session, rows: list[Row], every_position: bool, gates: Gates, group: str, result: Result
) -> None:
    worst: dict[str, tuple[float, str]] = {"logits_max_abs": (0.0, ""), "kl": (0.0, "")}
    fed = [0] * case.batch  # tokens of each row so far
    compared = [0] * case.batch  # positions of each row's answer so far
    for number, step in enumerate(case.steps):
        logits = session.step([rows[r].tokens[fed[r] : fed[r] + n] for r, n in enumerate(step)])
        for r, count in enumerate(step):
            positions = count if every_position else min(count, 1)
            want = rows[r].answer.logits[compared[r] : compared[r] + positions]
            got = logits[r, :positions]
            fed[r], compared[r] = fed[r] + count, compared[r] + positions
            for name, value in _distance(got, want).items() if count else ():
                if not value <= worst[name][0]:
                    worst[name] = value, f"logits, step {number}, row {r}"
    for name, (value, where) in worst.items():
        result.gate(name, value, getattr(gates, name), where, f"{group}.{name}")


def _distance(got: Floats, want: Floats) -> dict[str, float]:
    """Largest difference of logits; mean over positions of KL(original || artifact) in nats."""
    p, q = (torch.from_numpy(logits).double().log_softmax(-1) for logits in (want, got))
    kl = kl_div(q, p, log_target=True, reduction="batchmean")
    return {"logits_max_abs": float(np.abs(got - want).max()), "kl": float(kl)}


def _compare_caches(case: Case, session: Session, rows: list[Row], gates: Gates, group: str, result: Result) -> None:
    worst, where, touched = 0.0, "", []
    caches = session.fetch()
    for r, row in enumerate(rows):
        start, end = case.past[r], case.past[r] + len(row.tokens)
        for i, (tensor, cache) in enumerate(zip(session.signature.caches, caches, strict=True)):
            difference = np.abs(cache[r, :, start:end].astype(np.float32) - row.answer.caches[i])
            largest = float(difference.max(initial=0.0))
            name = f"{tensor.name}, row {r}"
            if not largest <= worst:
                worst, where = largest, name
            if row.used and not np.array_equal(cache[r, :, :start], row.past(i).astype(cache.dtype)):
                touched.append(f"{name}: slots before {start} were changed")
            if (cache[r, :, case.written(r) :] != SENTINEL).any():
                touched.append(f"{name}: slots from {case.written(r)} on were changed")
    result.gate("cache_max_abs", worst, gates.cache_max_abs, where, f"{group}.cache_max_abs")
    result.failures += touched[:3] + ([f"and {len(touched) - 3} more caches"] if len(touched) > 3 else [])


def run_greedy(
    prompts: Sequence[list[int]],
    count: int,
    runtime: Runtime,
    truth: Truth,
    gates: Gates,
    group: str,
    most_repeated: float,
) -> Result:
    """Generate `count` greedy tokens for a batch of prompts; the share that the original would have chosen too, and how
    much the worst row repeats itself. At a share of 1.0 the text equals the original's own, token for token.
    """
    session = runtime.session(len(prompts))
    generated: list[list[int]] = [[] for _ in prompts]
    new = list(prompts)
    for _ in range(count):
        logits = session.step(new)
        for row, tokens in enumerate(generated):
            last = len(new[row]) - 1 if truth.every_position else 0
            tokens.append(int(logits[row, last].argmax()))
        new = [tokens[-1:] for tokens in generated]
    result = Result()
    choices = [truth.greedy(prompt, tokens) for prompt, tokens in zip(prompts, generated, strict=True)]
    same = np.array(choices) == np.array(generated)
    where = "logits"
    if not same.all():
        row, token = np.argwhere(~same)[0]
        where += f", row {row}, first at new token {token}: {generated[row][token]}"
        where += f", the original says {choices[row][token]}"
    result.share("greedy_agreement", float(same.mean()), gates.greedy_agreement, where, f"{group}.greedy_agreement")
    repeated = [repetition(tokens) for tokens in generated]
    where = f"the text of row {int(np.argmax(repeated))}"
    result.gate("repetition", max(repeated), most_repeated, where, "verify.quality.repetition")
    return result
