"""A loaded model (`Runtime`) and sessions over it (`Session`): a static cache, its rows' lengths, and one `step`.

PyTorch, ONNX Runtime and TensorRT each have a Runtime. Padding, masks, positions and cache slots are computed here for
all of them, and steps that cannot run are refused here, before anything runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline.core.arrays import Array, Floats
from pipeline.core.contract import GraphContract
from pipeline.core.errors import Problem, UserError
from pipeline.core.profiles import Profiles

PYTHON_INTEGERS = {int}  # the types of the ids in nearly every row


class Session(ABC):
    """A static cache of `batch` rows and the model over it.

    `lengths`: [batch] int64, tokens in each row's cache; row r's next token goes to slot lengths[r]. Less takes a row's
    last tokens back; where caches keep a window only (contract.windows), `step` refuses it once tokens were dropped.
    `caches`: one array [batch, kv_heads, cache_size, head_dim] per cache input, in the contract's order; with fewer
    slots where it keeps a window only: slot i holds the row's token contract.dropped(tensor, lengths[r]) + i.
    A quantized cache (contract.scales) holds what pipeline.runtime.quantized_cache makes of keys and values. Where the
    caches are on a GPU these are copies, which `read_caches` updates; `write_caches` puts others in their place.
    `states`: one array for each other state (contract.states), of all of a row's tokens so far, with read_states and
    write_states. It cannot be taken back: where there is one, a row's length may be set to 0 only.
    `chunk`: the largest number of tokens of a row that are run at once, a longer step is run in several chunks; None:
    as many as the engine was built for. `shows_caches`: whether `caches`, `read_caches` and `write_caches` are those
    that the model reads; they are not where another library keeps them.
    """

    chunk: int | None = None
    shows_caches = True

    def __init__(self, contract: GraphContract, profiles: Profiles, batch: int) -> None:
        refused = _refusal(profiles, batch=batch)
        if refused is not None:
            raise UserError(refused)
        self.contract = contract
        self.profiles = profiles
        self.batch = batch
        self.lengths = np.zeros(batch, np.int64)
        # of each row in the caches; None: as many as `lengths` says
        self._held_tokens: npt.NDArray[np.int64] | None = self.lengths.copy()
        self._caches = [np.zeros(t.sized(batch=batch), t.dtype) for t in contract.caches]
        self._states = [np.zeros(t.sized(batch=batch), t.dtype) for t in contract.states]
        self._vocab = int(contract.logits.shape[-1])
        self._sequences = [step.sequence for step in profiles.admitting(batch=batch).by_name.values()]

    @property
    def caches(self) -> list[Array]:
        """See the class. A new list: the arrays themselves stay where the runtime has them."""
        return list(self._caches)

    @property
    def states(self) -> list[Array]:
        """See the class."""
        return list(self._states)

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> Array:
        """Run the model on the four token inputs, caches and states, update caches and states, return the logits."""

    def step(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """Feed each row its new tokens: a whole prompt, a part of one, or the last token generated.

        Rows may differ in length; they are padded on the right. More tokens than the engine or `chunk` takes at once
        are run in several chunks, with the same result. A row without new tokens is idle: its cache stays as it is,
        except that the last slot of a full row is overwritten, and its logits are undefined. Returns fp32
        [batch, 1, vocab], at each row's last token; with `wrap.logits=all` [batch, sequence, vocab], 0 at padding and
        in idle rows. Raises UserError, before anything runs, for a wrong number of rows, rows that are not lists of
        integers, no token at all, an id outside the vocabulary, more tokens than the cache has room for, or a sequence
        that the engine was not built for.
        """
        chunks = self.check(tokens)
        if len(chunks) == 1:
            return self._chunk(tokens)
        starts = [0, *np.cumsum(chunks).tolist()]
        logits = [self._chunk([row[start:end] for row in tokens]) for start, end in pairwise(starts)]
        if self.contract.logits.shape[1] != 1:
            return np.concatenate(logits, axis=1)
        last = [max(len(row), 1) - 1 for row in tokens]
        own = np.searchsorted(starts, last, side="right") - 1  # the chunk in which each row's last token was
        return np.stack([logits[own[row]][row] for row in range(self.batch)])

    def _chunk(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """`step` for tokens that can be run at once."""
        counts = np.array([len(row) for row in tokens], np.int64)
        sequence = int(counts.max())
        ids = np.zeros((self.batch, sequence), np.int64)
        for row, new in enumerate(tokens):
            ids[row, : len(new)] = new
        steps = np.arange(sequence)
        # an idle row gets one token that is not counted: it goes to the slot after the row's tokens, or to the last
        # slot of a full row, which can take no further token anyway
        position = np.minimum(self.lengths, self.contract.cache_size - sequence)
        feeds: dict[str, Array] = {
            "input_ids": ids,
            "attention_mask": (steps < np.maximum(counts, self._idle_tokens())[:, None]).astype(np.int64),
            "position_ids": position[:, None] + steps,
            "cache_position": position,
        }
        if self._states and not self.lengths.all():
            self._clear_states(self.lengths == 0)
        logits = self._run(feeds)
        self.lengths += counts
        self._held_tokens = self.lengths.copy()
        answer = logits.astype(np.float32, copy=False)
        if self.contract.logits.shape[1] != 1 and not counts.all():  # the token of an idle row is padding as well
            answer = np.where(counts[:, None, None] > 0, answer, np.float32(0))
        return answer

    def _idle_tokens(self) -> npt.NDArray[np.int64]:
        """[batch], how many tokens that are not counted each row gets if it is idle.

        A cache of a window that is full would drop one that is counted for it, and a state would take it in. So there
        only an empty row gets one, as attention needs a key: its states are cleared before its next step.
        """
        keeps = self.contract.windows or self.contract.states
        return (self.lengths == 0).astype(np.int64) if keeps else np.ones(self.batch, np.int64)

    def read_caches(self) -> list[Array]:
        """All caches, on the host: the session's own arrays where they are there, else copies."""
        return self.caches

    def write_caches(self, caches: Sequence[Array]) -> None:
        """Copy arrays of the same shapes into the caches; those of `read_caches`, changed or not, are allowed.

        `lengths` is not changed: set it to what the caches hold now.
        """
        self._held_tokens = None
        for own, new in zip(self._caches, caches, strict=True):
            if new.shape != own.shape:
                raise ValueError(f"a cache has the shape {own.shape}, not {new.shape}")
            if new is not own:
                own[...] = new

    def read_states(self) -> list[Array]:
        """As read_caches."""
        return self.states

    def write_states(self, states: Sequence[Array]) -> None:
        """As write_caches."""
        self._held_tokens = None
        for own, new in zip(self._states, states, strict=True):
            if new is not own:
                own[...] = new

    def _clear_states(self, rows: npt.NDArray[np.bool_]) -> None:
        """Set the states of these rows to those of a row without tokens."""
        for state in self._states:
            state[rows] = 0

    def check(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """The lengths of the chunks in which `step` runs these tokens. Raises UserError as `step` does."""
        if problems := list(not_integers(tokens)):
            raise UserError(problems)
        if len(tokens) != self.batch:
            fix = f"give {self.batch}, one for each row of the session"
            raise UserError(Problem(f"{len(tokens)} rows of tokens", "tokens", fix))
        counts = [len(row) for row in tokens]
        longest = max(counts)
        if longest == 0:
            raise UserError(Problem("no row has a token", "tokens", "give at least one row a token"))
        problems = [*unknown_ids(tokens, self._vocab), *self._overflow(counts), *self._taken_back()]
        if problems:
            raise UserError(problems)
        if longest == 1 and any(1 in sequence for sequence in self._sequences):
            return [1]
        chunks = self._chunks(counts, self.lengths)
        if chunks is None:
            raise UserError(self._no_chunks(counts))
        return chunks

    def _overflow(self, counts: Sequence[int]) -> Iterator[Problem]:
        """A problem for each row whose tokens do not fit the cache."""
        size = self.contract.cache_size
        for row, (count, used) in enumerate(zip(counts, self.lengths.tolist(), strict=True)):
            if used + count > size:
                what = f"{count} new tokens do not fit row {row}, which holds {used} of {size}"
                fix = f"build the point with cache.size={used + count} or more, or give fewer tokens"
                yield Problem(what, "cache.size", fix)

    def _taken_back(self) -> Iterator[Problem]:
        """A problem for each row that was set back to fewer tokens, where a cache has dropped some that it needs, or
        a state holds those that are taken back."""
        if not (self.contract.windows or self.contract.states) or self._held_tokens is None:
            return
        for row in np.flatnonzero(self.lengths != self._held_tokens).tolist():
            held, now = int(self._held_tokens[row]), int(self.lengths[row])
            if now and self.contract.states:
                what = f"row {row} was set from {held} to {now} tokens, and the model's states hold all {held}"
                yield Problem(what, "session.lengths", "set it to 0 and give the row its tokens again")
                continue
            dropped = self.contract.dropped
            kept = all(dropped(cache, now) == dropped(cache, held) for cache in self.contract.caches)
            if now and (now > held or not kept):
                what = f"row {row} was set from {held} to {now} tokens, and its caches keep a sliding window only"
                fix = "reset it and give it its tokens again, or build the point with engine.window_cache=false"
                yield Problem(what, "session.lengths", fix)

    def _no_chunks(self, counts: Sequence[int]) -> Problem:
        """Why rows with so many new tokens cannot be run in chunks that the profiles take."""
        size, longest = self.contract.cache_size, max(counts)
        takes = " or ".join(f"{low} to {high}" for low, high in sorted((s.min, s.max) for s in self._sequences))
        if self._chunks(counts, np.zeros_like(self.lengths)) is not None:  # empty rows have room
            tight = [row for row, used in enumerate(self.lengths.tolist()) if used + longest > size]
            held = ", ".join(f"row {row} ({size - self.lengths[row]})" for row in tight)
            what = f"the engine runs {takes} tokens of every row at once, and too few of the {size} slots are left in"
            needed = max(self.lengths.tolist()) + longest
            fix = f"build the point with cache.size={needed} or more, or with profile.decode.sequence.min=1"
            return Problem(f"{what} {held}", "cache.size", fix)
        refused = _refusal(self.profiles, batch=self.batch, sequence=longest)
        if refused is not None:
            return refused
        what = f"the engine runs {takes} tokens of every row at once, and this session at most {self.chunk}"
        return Problem(what, "profile.*.sequence.min", "build the point with profile.decode.sequence.min=1")

    def _chunks(self, counts: Sequence[int], lengths: npt.NDArray[np.int64]) -> list[int] | None:
        """The lengths of the longest chunks that the profiles take and every row has room for; None if there are none.

        lengths: [batch], used slots of each row. A chunk is padded to one length for all rows, and padding needs slots
        as well: near the end of a row that gets few tokens, the chunks of the others are shorter.
        """
        size = self.contract.cache_size
        left, used = np.array(counts, np.int64), lengths
        chunks = []
        while left.any():
            room = np.where(left > 0, size - used, np.maximum(size - used, 1))  # one idle token fits a full row, above
            longest = int(min(left.max(), room.min(), self.chunk or size))
            possible = [min(sequence.max, longest) for sequence in self._sequences if sequence.min <= longest]
            if not possible:
                return None
            chunks.append(max(possible))
            taken = np.minimum(left, chunks[-1])
            left, used = left - taken, used + taken
        return chunks

    def reset(self) -> None:
        """Empty all rows. The caches keep their bytes: slots past a row's length are never read. States are cleared
        before the next step."""
        self.lengths[:] = 0


class Runtime(ABC):
    """A loaded model."""

    contract: GraphContract
    profiles: Profiles

    @abstractmethod
    def session(self, batch: int) -> Session:
        """Make a session with a cache of `batch` rows. Raises UserError when no profile takes so many."""

    def finish_loading(self) -> None:  # noqa: B027  # most have nothing to wait for
        """Wait for what goes on behind the first steps: for measurements, as they take longer meanwhile."""

    def inexpressible(self, cached: Sequence[int], steps: Sequence[Sequence[int]]) -> str:
        """Why rows with so many tokens in their caches, and these numbers of new ones in each step, cannot be given to
        it by any session; empty when they can. Profiles and cache size are checked elsewhere."""
        return ""

    def widened(self, rows: int) -> "Runtime":
        """The same model for batches of up to `rows`, where it can run more than its profiles say; else itself."""
        return self


def not_integers(tokens: Sequence[Sequence[int]]) -> Iterator[Problem]:
    """Yield a problem for each row that is not a sequence of integers, Python's or NumPy's, with its first other value.

    Checking a decode step takes under a microsecond per row.
    """
    fix = "give each row a list of token ids, which may be empty"
    if not isinstance(tokens, Sequence | np.ndarray):
        yield Problem(f"tokens is {_shown(tokens)}, not a list of rows", "tokens", "give a list with one list per row")
        return
    for row, new in enumerate(tokens):
        if type(new) is list and set(map(type, new)) <= PYTHON_INTEGERS:
            continue
        if isinstance(new, str | bytes) or not (isinstance(new, Sequence) or getattr(new, "ndim", 0) == 1):
            yield Problem(f"row {row} is {_shown(new)}, not a list of token ids", f"tokens[{row}]", fix)
        elif not all(map(_is_integer, set(map(type, new)))):
            index = next(i for i, token in enumerate(new) if not _is_integer(type(token)))
            what = f"{_shown(new[index])} at index {index} of row {row} is not a token id, which is an integer"
            yield Problem(what, f"tokens[{row}][{index}]", fix)


def _is_integer(kind: type) -> bool:
    return kind is int or (issubclass(kind, int | np.integer) and kind is not bool)


def _shown(value: object) -> str:
    return f"{value!r:.40} of type {type(value).__name__}"


def unknown_ids(tokens: Sequence[Sequence[int]], vocab: int) -> Iterator[Problem]:
    """Yield a problem for each row with an id outside 0 to vocab - 1, with its first such id.

    Checking a decode step takes about a microsecond per row.
    """
    for row, new in enumerate(tokens):
        if len(new) and not 0 <= min(new) <= max(new) < vocab:
            index, token = next((i, token) for i, token in enumerate(new) if not 0 <= token < vocab)
            what = f"token {token} at index {index} of row {row} is not in the vocabulary, 0 to {vocab - 1}"
            yield Problem(what, f"tokens[{row}][{index}]", "take ids from the tokenizer in the engine's folder")


def _refusal(profiles: Profiles, **sizes: int) -> Problem | None:
    """Why no profile takes all of these sizes; None when one does. The last size is the one to change: some profile
    takes the others."""
    if profiles.admits(**sizes):
        return None
    given = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    allowed = "; ".join(f"{name}: {step.text(*sizes)}" for name, step in profiles.by_name.items())
    axis, size = sizes.popitem()
    highest = profiles.admitting(**sizes).max(axis)
    what = f"the engine was not built for {given} (it takes {allowed})"
    if size > highest:
        fix = f"give less at once, or build the point with a profile.*.{axis}.max of {size} or more"
        return Problem(what, f"profile.*.{axis}.max", fix)
    return Problem(what, f"profile.*.{axis}.min", f"build the point with a profile.*.{axis}.min of {size} or less")
