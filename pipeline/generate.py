"""Generate text with a built point.

    python -m pipeline.generate point=smollm2 prompt="What is a cache?" max_new_tokens=64

The answer alone goes to stdout, as it is made. From Python:

    from pipeline.generate import Generator
    for piece in Generator.load("smollm2").stream("What is a cache?"):
        print(piece, end="")
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session, not_integers, unknown_ids
from pipeline.text.sampling import GREEDY, Sampling, choose
from pipeline.text.stop_tokens import stop_tokens
from pipeline.text.tokens import decode_stream, encode, load_tokenizer

ARTIFACTS = Path("artifacts")


class Generator:
    """An engine and its tokenizer. Not safe to share between threads."""

    def __init__(self, runtime: Runtime, tokenizer: Tokenizer | None, stop: frozenset[int]) -> None:
        self.runtime = runtime
        self.tokenizer = tokenizer
        self.stop = stop

    @classmethod
    def load(cls, point: str | Path, artifacts: Path = ARTIFACTS) -> "Generator":
        """From a point's name, or from the folder of an engine. Raises UserError when there is none."""
        folder = point if isinstance(point, Path) else artifacts / point / layout.ENGINE
        return cls(open_engine(folder), load_tokenizer(folder), stop_tokens(folder))

    def tokens(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, sampling: Sampling = GREEDY
    ) -> Iterator[list[int | None]]:
        """Continue a batch of tokenized prompts, of any lengths: yields each step's new token of every row.

        A row's stop token ends it and is not yielded; from then on it yields None. Ends when every row has ended
        or has `max_new_tokens`. A prompt longer than the engine's profiles is fed in chunks. Raises UserError before
        anything runs when a prompt is empty or has an id outside the vocabulary, the batch is larger than the engine
        was built for, or prompt and answer do not fit the cache.
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
        """Answer one prompt, piece by piece. max_new_tokens: None for as many as the cache holds; chat: None to use
        the chat template if the model has one. Raises UserError as `tokens` does."""
        if self.tokenizer is None:
            raise UserError(Problem("the model has no tokenizer", "point", "random weights answer tokens only"))
        if not prompt:
            raise UserError(Problem("the prompt is empty", "prompt", "give it some text"))
        chat = self.tokenizer.chat_template is not None if chat is None else chat
        ids = encode(self.tokenizer, prompt, chat=chat, system=system)
        room = max(self.runtime.contract.cache_size - len(ids) + 1, 1)
        steps = self.tokens([ids], room if max_new_tokens is None else max_new_tokens, sampling)
        return decode_stream(self.tokenizer, (token for (token,) in steps if token is not None))


def _key(default: Any, text: str) -> Any:
    """A key of the command line: its default, and what --help says of it."""
    return field(default=default, metadata={"help": text})


@dataclass
class Request:
    """The command line's keys, and their defaults."""

    point: str = _key("", "name of a built point, a folder in artifacts/ (required)")
    prompt: str = _key("", "the text to answer or to continue (required)")
    max_new_tokens: int | None = _key(None, "most tokens to generate; default: as many as the cache holds")
    chat: bool | None = _key(None, "true: use the chat template, false: continue the text; default: true if it has one")
    system: str | None = _key(None, "system message for the chat template; default: none")
    temperature: float = _key(0.0, "0 takes the most probable token, more samples; default: 0")
    top_k: int = _key(0, "sample among the k most probable tokens, 0 among all; default: 0")
    top_p: float = _key(1.0, "sample among the tokens that together have this probability; default: 1")
    seed: int = _key(0, "seed for sampling; default: 0")


def _keys() -> str:
    """The keys with their types and defaults, a line each."""
    calls = {f"{f.name}={_typename(f.type)}": f.metadata["help"] for f in fields(Request)}
    return "\n".join(f"  {call:<22}{text}" for call, text in calls.items())


def parse(arguments: Sequence[str]) -> Request:
    """key=value arguments as a Request; a value is taken as it stands, whatever characters it has.

    Raises UserError that lists every unknown key, bad value and missing key.
    """
    kinds = {f.name: f.type for f in fields(Request)}
    values: dict[str, Any] = {}
    problems = []
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or key not in kinds:
            problems.append(Problem(f"unknown argument {argument!r}", key, f"give key=value with {', '.join(kinds)}"))
            continue
        try:
            values[key] = _converted(text, kinds[key])
        except ValueError:
            problems.append(
                Problem(f"{key}={text} cannot be read as {_typename(kinds[key])}", key, "give a value of that type")
            )
    problems += [
        Problem(f"{key} is missing", key, f'give {key}="..."') for key in ("point", "prompt") if not values.get(key)
    ]
    if problems:
        raise UserError(problems)
    return Request(**values)


def _typename(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).removesuffix(" | None")


def _converted(text: str, kind: Any) -> Any:
    if kind in (bool, bool | None):
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    return int(text) if kind in (int, int | None) else float(text) if kind is float else text


def main() -> None:
    """Run the command."""
    if usage.asked():
        print(usage.text(main, "python -m pipeline.generate point=NAME prompt=TEXT [key=value ...]", _keys()))
        return
    request = parse(sys.argv[1:])
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
