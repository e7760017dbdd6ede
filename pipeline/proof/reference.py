"""The original model in fp32, by transformers' own code: what every artifact is compared with.

Each row runs by itself, unpadded, in one forward over a growing cache, so nothing of our cache, masks, padding
or chunking can be in it. Only a long text (`StreamingReference`) is read in several rows and in chunks.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from pipeline.core.arrays import Floats
from pipeline.core.contract import CACHED
from pipeline.model.arguments import set_attention, with_cache, with_positions
from pipeline.model.decoder import cache_shapes
from pipeline.model.states.original import begins_anew, empty_cache, of_cache


@dataclass(frozen=True)
class Expected:
    """The original's answer to one row. logits: [positions, vocab]; caches: those of the contract, in its order, of the
    new tokens, [kv_heads, tokens, head_dim]; states: those of the contract, after the last token."""

    logits: Floats
    caches: list[Floats]
    states: list[Floats] = field(default_factory=list)


class Reference:
    """The original model."""

    def __init__(self, model: PreTrainedModel) -> None:
        # The definition. A class that takes no attention function stays with what transformers chose: for Falcon sdpa,
        # as its eager form adds ALiBi twice.
        set_attention(model, "eager")
        self.model = model

    def share_equal_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Replace each weight of the wrapped program that equals the original's, number for number, by the original's
        own tensor, so that no second copy stays in memory."""
        own = dict(self.model.named_parameters(remove_duplicate=False))
        for name, tensor in weights.items():
            twin = own.get(name.removeprefix("model."))
            if twin is not None and twin.dtype == tensor.dtype and torch.equal(twin, tensor):
                weights[name] = twin

    def answer(
        self, cached: list[Floats], tokens: list[int], positions: list[int], before: Sequence[int] = ()
    ) -> Expected:
        """Run `tokens` after the `cached` keys and values (as Expected.caches), or after the tokens `before`; logits
        only at `positions` of the new tokens."""
        cache = empty_cache(self.model)
        held = iter(cached)
        for index, parts in enumerate(self._cached if cached else []):
            key, value, *indexer = (torch.from_numpy(next(held))[None] for _ in parts)
            cache.update(key, value, index)
            for keys in indexer:
                cache.update_indexer(keys[:, 0], index)
        start = cached[0].shape[1] if cached else 0
        every = [*before, *tokens]
        wanted = [len(before) + position for position in positions]
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([every]),
                **with_positions(self.model, torch.arange(start, start + len(every))[None]),
                **with_cache(self.model, cache),
                **self._only(torch.tensor(wanted)),
            ).logits[0]
        if len(logits) != len(wanted):
            logits = logits[wanted]
        kept = of_cache(self.model, cache)
        caches = [layer[part][0, :, start + len(before) :] for layer in kept for part in CACHED if part in layer]
        states = [state[0] for layer in kept for part, state in layer.items() if part not in CACHED]
        # without the copy all cached slots stay in memory
        copied = ([tensor.numpy().copy() for tensor in tensors] for tensors in (caches, states))
        return Expected(logits.float().numpy(), *copied)

    @cached_property
    def _cached(self) -> list[list[str]]:
        """The parts of each layer that hold tokens."""
        return [[part for part in layer if part in CACHED] for layer in cache_shapes(self.model, 1)]

    def greedy(self, tokens: list[int], count: int) -> npt.NDArray[np.int64]:
        """The greedy choice after each of the last `count` prefixes of `tokens`, itself included: int64 [count].

        If these equal the tokens that an artifact generated, the original would have generated the same ones. So one
        forward replaces `count` steps.
        """
        first = len(tokens) - count
        logits = self.answer([], tokens, list(range(first, len(tokens)))).logits
        choices: npt.NDArray[np.int64] = logits.argmax(-1)
        return choices

    def generate(self, prompt: list[int], count: int) -> list[int]:
        """The original's own greedy text: `count` tokens after a prompt, one forward for each."""
        cache, new, text = empty_cache(self.model), list(prompt), list[int]()
        for _ in range(count):
            with torch.inference_mode():
                logits = self.model(
                    input_ids=torch.tensor([new]), **self._only(1), **with_cache(self.model, cache)
                ).logits
            text.append(int(logits[0, -1].argmax()))
            new = text[-1:]
        return text

    def _only(self, positions: int | torch.Tensor) -> dict[str, Any]:
        """The keyword argument for logits of some positions; of all, where the forward has no such argument."""
        accepted = inspect.signature(self.model.forward).parameters
        return {"logits_to_keep": positions} if "logits_to_keep" in accepted else {}

    def streaming(self) -> "StreamingReference":
        """Start reading texts, a row each."""
        return StreamingReference(self.model)


class StreamingReference:
    """The original on several rows of equal length at once, a chunk of positions at a time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache = empty_cache(model)
        self._used = 0
        self._one_by_one = begins_anew(model)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read the next n tokens of each row, int64 [rows, n]; return their logits, fp32 [rows, n, vocab]."""
        if self._one_by_one:
            return torch.cat([self._logits(tokens[:, i : i + 1]) for i in range(tokens.shape[1])], 1)
        return self._logits(tokens)

    def _logits(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(self._used, self._used + tokens.shape[1]).expand(tokens.shape)
        with torch.inference_mode():
            logits: torch.Tensor = self._model(
                input_ids=tokens, **with_positions(self._model, positions), **with_cache(self._model, self._cache)
            ).logits
        self._used += tokens.shape[1]
        return logits.float()
