"""Generate text with a built point.

    python -m pipeline.generate smollm2 "What is a cache?" --max-new-tokens 64

Only the answer goes to stdout, as it is made. From Python:

    from pipeline.generate import Generator
    for piece in Generator.load("smollm2").stream("What is a cache?"):
        print(piece, end="")
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session, not_integers, unknown_ids
from pipeline.text.sampling import GREEDY, Sampling, choose
from pipeline.text.stop_tokens import stop_tokens
from pipeline.text.streaming import decode_stream
from pipeline.text.tokenizer import TextTokenizer, open_tokenizer

ARTIFACTS = Path("artifacts")


class Generator:
    """An engine and its tokenizer. Not thread-safe."""

    def __init__(self, runtime: Runtime, tokenizer: TextTokenizer | None, stop: frozenset[int]) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.stop = stop

    @classmethod
    def load(cls, point: str | Path, artifacts: Path = ARTIFACTS) -> "Generator":
        """Load a point by its name, or an engine by its folder. Raises UserError when there is none."""
        folder = point if isinstance(point, Path) else artifacts / point / layout.ENGINE
        return cls(open_engine(folder), open_tokenizer(folder), stop_tokens(folder))

    def tokens(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[list[int | None]]:
        """Continue a batch of tokenized prompts of any lengths; yield the new token of every row at each step.

        A row ends at a stop token, which is not yielded; from then on None stands in its place. The iterator ends when
        every row has ended or has `max_new_tokens`. A prompt longer than the engine's profiles is fed in chunks. Raises
        UserError before anything runs when a prompt is empty or has an id outside the vocabulary, when the batch is
        larger than the engine was built for, or when a prompt and its answer do not fit the cache.
        """
        malformed = list(not_integers(prompts))
        if malformed:
            raise UserError([*sampling.problems(), *malformed])
        problems = [
            *sampling.problems(),
            *(
                Problem(f"prompt {row} is empty", "prompt", "give it some text")
                for row, p in enumerate(prompts)
                if not p
            ),
            *unknown_ids(prompts, int(self.runtime.contract.logits.shape[-1])),
            *self._overflow(prompts, max_new_tokens),
        ]
        if problems:
            raise UserError(problems)
        session = self.runtime.session(len(prompts))
        session.check(prompts)
        return self._run(session, prompts, max_new_tokens, sampling)

    def _overflow(self, prompts: Sequence[Sequence[int]], new: int) -> Iterator[Problem]:
        size = self.runtime.contract.cache_size
        if new < 1:
            yield Problem(f"max_new_tokens is {new}", "max_new_tokens", "give 1 or more")
        for row, prompt in enumerate(prompts):
            if len(prompt) + new - 1 > size:  # the last token is not fed back
                fix = f"give max_new_tokens={size - len(prompt) + 1} at most" if len(prompt) <= size else "shorten it"
                yield Problem(
                    f"prompt {row} of {len(prompt)} tokens and {new} new ones do not fit the cache of {size} slots",
                    "cache.size",
                    f"{fix}, or build the point with cache.size={len(prompt) + new - 1} or more",
                )

    def _run(
        self, session: Session, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling
    ) -> Iterator[list[int | None]]:
        rng = np.random.default_rng(sampling.seed)
        active = [True] * len(prompts)
        feed = [list(prompt) for prompt in prompts]
        for _ in range(max_new_tokens):
            logits = session.step(feed)
            last = [max(len(row), 1) - 1 for row in feed] if logits.shape[1] > 1 else [0] * len(feed)
            chosen = choose(logits[np.arange(len(feed)), last], sampling, rng).tolist()
            active = [on and token not in self.stop for on, token in zip(active, chosen, strict=True)]
            if not any(active):
                return
            yield [token if on else None for on, token in zip(active, chosen, strict=True)]
            feed = [[token] if on else [] for on, token in zip(active, chosen, strict=True)]

    def stream(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        *,
        chat: bool | None = None,
        system: str | None = None,
    ) -> Iterator[str]:
        """Answer one prompt; yield the text in pieces. max_new_tokens: None for as many as the cache holds. chat: None
        to use the chat template if the model has one. Raises UserError as `tokens` does."""
        if self.tokenizer is None:
            raise UserError(Problem("the model has no tokenizer", "point", "give token ids to Generator.tokens"))
        if not prompt:
            raise UserError(Problem("the prompt is empty", "prompt", "give it some text"))
        chat = bool(self.tokenizer.templates) if chat is None else chat
        ids = self.tokenizer.encode_prompt(prompt, chat=chat, system=system)
        room = max(self.runtime.contract.cache_size - len(ids) + 1, 1)
        steps = self.tokens([ids], room if max_new_tokens is None else max_new_tokens, sampling)
        return decode_stream(self.tokenizer.decode, (token for (token,) in steps if token is not None))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError with every unknown argument, bad value and missing argument."""
    parser = usage.Parser(main, "generate", "POINT PROMPT [options]")
    parser.add_required("point", "name of a built point, a folder in artifacts/")
    parser.add_required("prompt", "the text to answer or to continue")
    parser.add_number("--max-new-tokens", int, None, "most tokens to generate; default: as many as the cache holds")
    parser.add_argument(
        "--chat",
        action=argparse.BooleanOptionalAction,
        help="use the chat template, or continue the text; default: use it if the model has one",
    )
    parser.add_argument("--system", metavar="TEXT", help="system message for the chat template; default: none")
    parser.add_number("--temperature", float, 0.0, "0 takes the most probable token, more samples; default: 0")
    parser.add_number("--top-k", int, 0, "sample among the k most probable tokens, 0 among all; default: 0")
    parser.add_number("--top-p", float, 1.0, "sample among the fewest tokens with this total probability; default: 1")
    parser.add_number("--seed", int, 0, "seed for sampling; default: 0")
    return parser.parse(arguments)


def main() -> None:
    """Run the command."""
    request = parse()
    sampling = Sampling(request.temperature, request.top_k, request.top_p, request.seed)
    generator = Generator.load(request.point)
    pieces = generator.stream(
        request.prompt, request.max_new_tokens, sampling, chat=request.chat, system=request.system
    )
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    errors.run(main)
