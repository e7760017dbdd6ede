"""A model that runs, and a session over it: the static cache, how far each row has filled it, and one `step`.

Every runtime (PyTorch, ONNX Runtime, TensorRT) is a `Runtime` that makes `Session`s. What a step needs
beyond the tokens (padding, masks, positions, cache slots) is made here once for all of them, and whatever a
step cannot do is refused here, before anything runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import Problem, UserError
from pipeline.signature import Signature

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]
Bounds = Mapping[str, Mapping[str, tuple[int, int]]]  # profile -> axis -> (min, max)


def axes_bounds(signature: Signature) -> Bounds:
    """The bounds of a model that was built for no profiles: its declared axes."""
    return {"axes": {name: (1, most) for name, most in signature.axes.items()}}


def largest(bounds: Bounds) -> dict[str, int]:
    """The largest size of each axis in any profile."""
    return {axis: max(axes[axis][1] for axes in bounds.values()) for axis in ("batch", "sequence")}


class Session(ABC):
    """A static cache of `batch` rows and the model over it.

    `lengths`: [batch] int64, tokens in each row's cache; row r's next token goes to slot lengths[r].
    `caches`: one array [batch, kv_heads, cache_size, head_dim] per cache input, in the signature's order; where the
    caches lie on a GPU, copies of them, which `fetch` brings up to date.
    `piece`: a step of more tokens a row is run in pieces of so many, None: in one.
    """

    piece: int | None = None

    def __init__(self, signature: Signature, bounds: Bounds, batch: int) -> None:
        _check(bounds, batch=batch)
        self.signature = signature
        self.bounds = bounds
        self.batch = batch
        self.lengths = np.zeros(batch, np.int64)
        self.caches = [np.zeros(t.sized(batch=batch), t.dtype) for t in signature.caches]

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> Array:
        """Run the model on the four token inputs and the caches, update the caches, return the logits."""

    def step(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """Feed each row its new tokens: a whole prompt, a chunk of one, or the last token generated.

        Rows may differ in length; they are padded on the right. A row with none is idle: its cache stays as it
        is, its logits mean nothing. Returns fp32 [batch, 1, vocab], at each row's last token
        (with `wrap.logits=all` [batch, sequence, vocab]).
        Raises UserError, before anything runs, for a wrong number of rows, no token at all, more tokens than the
        engine was built for, or a write past the end of the cache.
        """
        counts = np.array([len(row) for row in tokens], np.int64)
        self.check(counts.tolist())
        piece = self.piece or int(counts.max())
        starts = range(0, int(counts.max()), piece)
        logits = [self._piece([row[start : start + piece] for row in tokens]) for start in starts]
        if len(logits) == 1:
            return logits[0]
        if self.signature.logits.shape[1] != 1:
            return np.concatenate(logits, axis=1)
        own = np.maximum(counts - 1, 0) // piece  # where each row's last token was
        return np.stack([logits[own[row]][row] for row in range(self.batch)])

    def _piece(self, tokens: Sequence[Sequence[int]]) -> Floats:
        """`step` on what can be run at once."""
        counts = np.array([len(row) for row in tokens], np.int64)
        sequence = int(counts.max())
        ids = np.zeros((self.batch, sequence), np.int64)
        for row, new in enumerate(tokens):
            ids[row, : len(new)] = new
        steps = np.arange(sequence)
        # an idle row gets one token that is forgotten again: it goes to the slot after its tokens, or, in a full row,
        # to the last, which matters no more: a full row can take no further token
        position = np.minimum(self.lengths, self.signature.cache_size - sequence)
        feeds: dict[str, Array] = {
            "input_ids": ids,
            "attention_mask": (steps < np.maximum(counts, 1)[:, None]).astype(np.int64),
            "position_ids": position[:, None] + steps,
            "cache_position": position,
        }
        logits = self._run(feeds)
        self.lengths += counts
        return logits.astype(np.float32, copy=False)

    def fetch(self) -> list[Array]:
        """All caches on the host, to be read, or changed and stored; where they lie there anyway, the very arrays."""
        return self.caches

    def store(self, caches: list[Array]) -> None:
        """Put back what `fetch` gave."""
        self.caches = caches

    def check(self, counts: Sequence[int]) -> None:
        """Raise UserError when `step` could not take that many new tokens of each row."""
        sequence = max(counts, default=0)
        if len(counts) != self.batch:
            raise UserError(
                Problem(
                    f"{len(counts)} rows of tokens", "tokens", f"give {self.batch}, one for each row of the session"
                )
            )
        if sequence == 0:
            raise UserError(Problem("no row has a token", "tokens", "give at least one row a token"))
        size = self.signature.cache_size
        for row, (count, used) in enumerate(zip(counts, self.lengths.tolist(), strict=True)):
            if used + sequence > size and (count or sequence > 1):
                raise UserError(
                    Problem(
                        f"{count} new tokens, padded to {sequence}, do not fit row {row}, which holds {used} of {size}",
                        "cache.size",
                        f"build the point with cache.size={used + sequence} or more, or give fewer tokens",
                    )
                )
        _check(self.bounds, batch=self.batch, sequence=sequence)

    def reset(self) -> None:
        """Forget all tokens. The cache keeps its bytes: slots past a row's length are never read."""
        self.lengths[:] = 0


class Runtime(ABC):
    """A loaded model."""

    signature: Signature
    bounds: Bounds

    @abstractmethod
    def session(self, batch: int) -> Session:
        """A new session with a cache of `batch` rows; UserError when the model was built for fewer."""


def _check(bounds: Bounds, **sizes: int) -> None:
    """Raise UserError unless one of the profiles takes all of these sizes."""
    if any(all(low[axis] <= size <= high[axis] for axis, size in sizes.items()) for low, high in _ends(bounds)):
        return
    given = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    allowed = "; ".join(
        f"{name}: " + " x ".join(f"{axis} {axes[axis][0]}-{axes[axis][1]}" for axis in sizes)
        for name, axes in bounds.items()
    )
    axis = max(sizes, key=lambda a: sizes[a] / max(axes[a][1] for axes in bounds.values()))  # the furthest out
    raise UserError(
        Problem(
            f"the engine was not built for {given} (it takes {allowed})",
            f"profile.*.{axis}.max",
            f"give less at once, or build the point with a profile.*.{axis}.max of {sizes[axis]} or more",
        )
    )


def _ends(bounds: Bounds) -> Iterable[tuple[dict[str, int], dict[str, int]]]:
    for axes in bounds.values():
        yield {a: low for a, (low, _) in axes.items()}, {a: high for a, (_, high) in axes.items()}
