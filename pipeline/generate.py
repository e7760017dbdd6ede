"""Generate text with a built point.

    python -m pipeline.generate smollm2 "What is a cache?" --max-new-tokens 64
    python -m pipeline.generate smollm2 --batch prompts.txt > answers.jsonl

Only the answer goes to stdout, as it is made. With --batch each line of a file is a prompt, or {"prompt": ...} or
{"messages": [...]} in JSON; the answers are lines of JSON in the order of the prompts: text, tokens, and whether a stop
or the length ended it. From Python:

    from pipeline.generate import Generator
    for piece in Generator.load("smollm2").stream("What is a cache?"):
        print(piece, end="")
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.core import errors, layout, usage
from pipeline.core.errors import Problem, UserError
from pipeline.generation import prompts as prompt_file
from pipeline.generation import queue
from pipeline.generation.lookup import Lookup
from pipeline.generation.prompts import Prompt
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session, not_integers, unknown_ids
from pipeline.text.sampling import GREEDY, Row, Sampling
from pipeline.text.stop_strings import text_before
from pipeline.text.stop_tokens import stop_tokens
from pipeline.text.streaming import decode_stream
from pipeline.text.tokenizer import TextTokenizer, open_tokenizer

ARTIFACTS = Path("artifacts")


@dataclass(frozen=True)
class Answer:
    """The answer to a prompt: its text, how many tokens it has, and what ended it: "stop" or "length"."""

    text: str
    tokens: int
    finish: str


class Generator:
    """An engine and its tokenizer. Not thread-safe.

    lookup: guess tokens that repeat the text (pipeline.generation.lookup) for a single greedy row, where the engine
    gives the logits of every token (`wrap.logits=all`) and its caches can take tokens back. The tokens stay the same.
    """

    lookup = True

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
        if self.lookup and len(prompts) == 1 and self._can_guess(sampling):
            yield from self._guessing(session, prompts[0], max_new_tokens)
            return
        vocab = int(self.runtime.contract.logits.shape[-1])
        rows = [Row(sampling, prompt, vocab) for prompt in prompts]
        active = [True] * len(prompts)
        feed = [list(prompt) for prompt in prompts]
        for _ in range(max_new_tokens):
            logits = session.step(feed)
            last = [max(len(row), 1) - 1 for row in feed] if logits.shape[1] > 1 else [0] * len(feed)
            chosen = [row.choose(logits[n, last[n]]) for n, row in enumerate(rows)]
            active = [on and token not in self.stop for on, token in zip(active, chosen, strict=True)]
            if not any(active):
                return
            yield [token if on else None for on, token in zip(active, chosen, strict=True)]
            feed = [[token] if on else [] for on, token in zip(active, chosen, strict=True)]

    def _can_guess(self, sampling: Sampling) -> bool:
        contract = self.runtime.contract
        greedy = sampling.temperature == 0 and sampling.repetition_penalty == 1
        return greedy and contract.logits.shape[1] != 1 and not (contract.windows or contract.states)

    def _guessing(self, session: Session, prompt: Sequence[int], max_new_tokens: int) -> Iterator[list[int | None]]:
        """As `_run` for one greedy row: each step also reads a guess, of which the tokens up to the first wrong one
        count. The slots of the others are given back."""
        lookup = Lookup(prompt)
        feed, guess, left = list(prompt), list[int](), max_new_tokens
        while True:
            logits = session.step([[*feed, *guess]])[0]
            chosen = logits[len(feed) - 1 :].argmax(-1).tolist()
            right = next((n for n, token in enumerate(guess) if token != chosen[n]), len(guess))
            session.lengths[0] -= len(guess) - right
            if guess:
                lookup.learn(len(guess), right)
            for token in chosen[: right + 1]:
                if token in self.stop:
                    return
                yield [token]
                lookup.add(token)
                left -= 1
                if left == 0:
                    return
            feed = chosen[right : right + 1]
            guess = lookup.guess(min(left, session.contract.cache_size - int(session.lengths[0])) - 1)
            if not self.runtime.profiles.admits(batch=1, sequence=1 + len(guess)):
                guess = []

    def stream(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        *,
        chat: bool | None = None,
        system: str | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Answer one prompt; yield the text in pieces. max_new_tokens: None for as many as the cache holds. chat: None
        to use the chat template if the model has one. stop: texts at which the answer ends, before them. Raises
        UserError as `tokens` does."""
        tokenizer = self._tokenizer(stop)
        if not prompt:
            raise UserError(Problem("the prompt is empty", "prompt", "give it some text"))
        chat = bool(tokenizer.templates) if chat is None else chat
        ids = tokenizer.encode_prompt(prompt, chat=chat, system=system)
        room = max(self.runtime.contract.cache_size - len(ids) + 1, 1)
        steps = self.tokens([ids], room if max_new_tokens is None else max_new_tokens, sampling)
        return text_before(decode_stream(tokenizer.decode, (token for (token,) in steps if token is not None)), stop)

    def answers(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        *,
        chat: bool | None = None,
        system: str | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Answer]:
        """Answer any number of prompts, as many at a time as the engine takes rows; yield the answers in the order of
        the prompts. An answer depends on no other prompt. Options as those of `stream`; raises UserError as it does,
        with the problems of all prompts."""
        tokenizer = self._tokenizer(stop)
        chat = bool(tokenizer.templates) if chat is None else chat
        size, texts, problems = self.runtime.contract.cache_size, list[queue.Text](), sampling.problems()
        for index, prompt in enumerate(prompts):
            if prompt.text is None:
                ids = tokenizer.encode_chat(prompt.messages)
            else:
                ids = tokenizer.encode_prompt(prompt.text, chat=chat, system=system)
            limit = max(size - len(ids) + 1, 1) if max_new_tokens is None else max_new_tokens
            problems += [replace(found, where=prompt.where) for found in self._overflow([ids], limit)]
            if not ids:
                problems.append(Problem("the prompt has no tokens", prompt.where, "give it some text"))
            texts.append(queue.Text(index, ids, limit))
        if problems:
            raise UserError(problems)
        for text in texts:
            text.ended = partial(_has_any, tokenizer, text, stop)
        session = self.runtime.session(min(len(texts), self.runtime.profiles.max("batch")))
        return self._in_order(tokenizer, queue.run(session, texts, sampling, self.stop), stop)

    def _in_order(self, tokenizer: TextTokenizer, texts: Iterator[queue.Text], stop: Sequence[str]) -> Iterator[Answer]:
        done: dict[int, Answer] = {}
        number = 0
        for text in texts:
            whole = "".join(text_before(decode_stream(tokenizer.decode, iter(text.new)), stop))
            full = len(text.new) == text.limit and not text.ended()
            done[text.index] = Answer(whole, len(text.new), "length" if full else "stop")
            while number in done:
                yield done.pop(number)
                number += 1

    def _tokenizer(self, stop: Sequence[str]) -> TextTokenizer:
        """The tokenizer. Raises UserError when there is none, or a stop string is empty."""
        if self.tokenizer is None:
            raise UserError(Problem("the model has no tokenizer", "point", "give token ids to Generator.tokens"))
        if "" in stop:
            raise UserError(Problem("a stop string is empty", "stop", "give it some text"))
        return self.tokenizer


def _has_any(tokenizer: TextTokenizer, text: queue.Text, stop: Sequence[str]) -> bool:
    """Whether an answer has one of the stop strings."""
    if not stop:
        return False
    answer = tokenizer.decode(text.new)
    return any(string in answer for string in stop)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Raises UserError with every unknown argument, bad value and missing argument."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = usage.Parser(main, "generate", "POINT PROMPT [options] | POINT --batch FILE [options]")
    parser.add_required("point", "name of a built point, a folder in artifacts/")
    options = given[: given.index("--")] if "--" in given else given
    if not any(argument.partition("=")[0] == "--batch" for argument in options):
        parser.add_required("prompt", "the text to answer or to continue")
    parser.add_argument(
        "--batch", metavar="FILE", help="answer each line of a file, - for stdin; write JSON lines; default: none"
    )
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
    parser.add_number("--min-p", float, 0.0, "leave out tokens below this times the highest probability; default: 0")
    parser.add_number("--repetition-penalty", float, 1.0, "make tokens that are there already less likely; default: 1")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text; may be repeated; default: none",
    )
    parser.add_number("--seed", int, 0, "seed for sampling; default: 0")
    return parser.parse(given)


def main() -> None:
    """Run the command."""
    request = parse()
    sampling = Sampling(
        request.temperature,
        request.top_k,
        request.top_p,
        request.seed,
        repetition_penalty=request.repetition_penalty,
        min_p=request.min_p,
    )
    options = {"chat": request.chat, "system": request.system, "stop": request.stop}
    prompts = prompt_file.read(request.batch) if request.batch is not None else []
    generator = Generator.load(request.point)
    if request.batch is not None:
        from tqdm import tqdm  # a single answer does without

        answers = generator.answers(prompts, request.max_new_tokens, sampling, **options)
        for answer in tqdm(answers, total=len(prompts), desc="generate", unit="prompt", leave=False):
            print(json.dumps(asdict(answer), ensure_ascii=False), flush=True)
        return
    for piece in generator.stream(request.prompt, request.max_new_tokens, sampling, **options):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    errors.run(main)
