"""Answer prompts with the model in this folder.

    pip install -r requirements.txt
    python run.py "What is a cache?"
    python run.py "A first prompt" "A second one" --max-new-tokens 64 --temperature 0.7

One prompt is answered as text, while it is made. Several are answered together, one JSON object per line. From Python:

    from run import Model
    print(*Model(".").answer("What is a cache?"), sep="")

This file is all the code that the model needs: read it, copy it, change it. The model is ONNX with a key-value cache of
a fixed size: each cache is an input and an output in one buffer, which ONNX Runtime writes in place. cache_position
says where the new tokens of a row go, position_ids their positions, attention_mask which of them are padding.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import tokenizers

INCOMPLETE = "\ufffd"  # a decoder writes it for bytes that are not a character, or not yet
CHUNK, BATCH_CHUNK = 256, 1024  # tokens of one prompt, and of all, that are run at once: more are not faster
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class MistakeError(Exception):
    """A request that cannot be answered: what is wrong, and how to fix it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"error: {what}\n  fix: {fix}")


@dataclass(frozen=True)
class Sampling:
    """temperature: 0 takes the most probable token. top_k: sample among the k most probable tokens, 0 among all. top_p:
    sample among the fewest tokens with this total probability. seed: every prompt draws its own numbers from it."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def check(self) -> None:
        """Raise MistakeError for a value out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise MistakeError(f"temperature is {self.temperature}", "give 0 (greedy) or more")
        if self.top_k < 0:
            raise MistakeError(f"top_k is {self.top_k}", "give 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise MistakeError(f"top_p is {self.top_p}", "give a value above 0, at most 1")
        if self.seed < 0:
            raise MistakeError(f"seed is {self.seed}", "give 0 or more")

    def choose(self, logits: npt.NDArray[np.float32], rng: np.random.Generator) -> int:
        """Choose the next token from one row of logits [vocab]."""
        if self.temperature == 0:
            return int(logits.argmax())
        return int(rng.choice(len(logits), p=self.probabilities(logits)))

    def probabilities(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The distribution that a token is drawn from, for a temperature above 0: [vocab]."""
        order = np.argsort(-logits, kind="stable")
        kept = np.exp((logits[order].astype(np.float64) - logits.max()) / self.temperature)
        if self.top_k:
            kept[self.top_k :] = 0
        kept /= kept.sum()
        kept[np.cumsum(kept) - kept >= self.top_p] = 0  # always keeps the most probable
        result = np.zeros(len(kept), np.float64)
        result[order] = kept / kept.sum()
        return result


GREEDY = Sampling()


class Text:
    """The tokenizer and the chat template of a folder."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = _json(folder / "tokenizer_config.json")
        file = folder / "chat_template.jinja"
        template = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if isinstance(template, list):  # several, each with a name
            template = {each["name"]: each["template"] for each in template}.get("default")
        self.template: str | None = template or None
        given = {name: token for name, token in config.items() if name.endswith("_token")}
        for key in ("extra_special_tokens", "model_specific_special_tokens"):
            given |= config[key] if isinstance(config.get(key), dict) else {}
        names = {name: token.get("content") if isinstance(token, dict) else token for name, token in given.items()}
        self.special_tokens = {name: token for name, token in names.items() if isinstance(token, str)}

    def encode(self, text: str, *, chat: bool, system: str | None = None) -> list[int]:
        """Tokens of a text; with `chat`, of the user's turn in the chat template. Raises MistakeError when the template
        is missing or refuses the messages."""
        if not chat:
            return list(self.tokenizer.encode(text).ids)
        if self.template is None:
            raise MistakeError("the model has no chat template", "use --no-chat to continue the text itself")
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": text})
        values: dict[str, Any] = {"tools": None, "documents": None, **self.special_tokens}
        try:
            compiled = environment().from_string(self.template)
            shown = compiled.render(messages=messages, add_generation_prompt=True, **values)
        except Exception as error:  # a template is a program that came with the model: it may raise anything
            fix = "use --no-chat to continue the text itself"
            fix = fix if system is None else f"remove the system message, or {fix}"
            raise MistakeError(f"the chat template fails: {error}", fix) from error
        return list(self.tokenizer.encode(shown, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def stream(self, tokens: Iterator[int]) -> Iterator[str]:
        """Yield pieces of text as tokens come in; a character of several tokens is one piece. Joined, they are the text
        of all tokens."""
        # A decoder may treat the first token differently, so a piece is decoded together with the one before it.
        ids: list[int] = []
        start = shown = 0
        for token in tokens:
            ids.append(token)
            before, text = self.decode(ids[start:shown]), self.decode(ids[start:])
            if len(text) > len(before) and not text.endswith(INCOMPLETE):
                yield text[len(before) :]
                start, shown = shown, len(ids)
        if rest := self.decode(ids[start:])[len(self.decode(ids[start:shown])) :]:
            yield rest  # ends within a character


def environment() -> jinja2.Environment:
    """What chat templates are written for: the names and filters that transformers gives them, in a sandbox."""
    made = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


class _Generation(jinja2.ext.Extension):
    """{% generation %}, which marks the model's own text for training: the text itself."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: "jinja2.parser.Parser") -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: jinja2.runtime.Macro) -> str:
        return str(caller())


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like jinja2's filter, without escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


class Model:
    """The model of a folder. threads: None for one per core that this process may use. Not thread-safe."""

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        folder = Path(folder)
        self.info = _json(folder / "engine.json")
        needs = str(self.info["needs"])
        if _version(ort.__version__) < _version(needs):
            what = f"the model needs onnxruntime {needs} or later, this is {ort.__version__}"
            raise MistakeError(what, "pip install -r requirements.txt")
        signature = self.info["signature"]
        present = {past: new for new, past in signature["aliases"].items()}
        self.kept = [(t, present[t["name"]]) for t in signature["inputs"] if t["name"] in present]
        self.states = set(signature.get("rules", ()))
        self.logits = next(t for t in signature["outputs"] if t["name"] == "logits")
        self.vocab = int(self.logits["shape"][2])
        self.windows_or_states = bool(signature.get("windows") or self.states)
        self.cache_size = int(signature["cache_size"])
        self.profiles = list(self.info["profiles"].values())
        taken = [p["batch"] for p in self.profiles if p["sequence"]["min"] == 1]
        self.rows = 0  # prompts at once
        while any(batch["min"] <= self.rows + 1 <= batch["max"] for batch in taken):
            self.rows += 1
        generation = folder / "generation_config.json"
        stop = _json(generation).get("eos_token_id") if generation.exists() else None
        self.stop = frozenset(stop if isinstance(stop, list) else [] if stop is None else [stop])
        self.text = Text(folder) if (folder / "tokenizer.json").exists() else None
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[self.info["optimization"]]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options.intra_op_num_threads = threads or self.info["threads"] or cores
        # without it, quantized weights are multiplied with activations rounded to 8 bits
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        os.environ.setdefault("ORT_GQA_DISABLE_FLASH_ATTENTION", "1")  # it is slower on the CPU
        self.session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def answer(
        self,
        prompt: str,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
        *,
        chat: bool | None = None,
        system: str | None = None,
    ) -> Iterator[str]:
        """Answer one prompt; yield the text in pieces. chat: None to use the chat template if the model has one. Raises
        MistakeError for a prompt that does not fit."""
        if self.text is None:
            raise MistakeError("the model has no tokenizer", "give token ids with --tokens")
        steps = self.generate([self.encode(prompt, chat=chat, system=system)], max_new_tokens, sampling)
        return self.text.stream(token for (token,) in steps if token is not None)

    def encode(self, prompt: str, *, chat: bool | None = None, system: str | None = None) -> list[int]:
        """Tokens of a prompt; see `answer`."""
        if self.text is None:
            raise MistakeError("the model has no tokenizer", "give token ids with --tokens")
        if not prompt:
            raise MistakeError("the prompt is empty", "give it some text")
        return self.text.encode(prompt, chat=self.text.template is not None if chat is None else chat, system=system)

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int | None = None, sampling: Sampling = GREEDY
    ) -> Iterator[list[int | None]]:
        """Continue a batch of tokenized prompts of any lengths; yield the new token of every row at each step.

        A row that has met a stop token or has `max_new_tokens` (None: as many as the cache holds) gives None from then
        on. Raises MistakeError when a prompt is empty, unknown to the vocabulary or too long, or the batch too large.
        """
        sampling.check()
        if not 1 <= len(prompts) <= self.rows:
            raise MistakeError(f"there are {len(prompts)} prompts", f"give 1 to {self.rows} at once")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise MistakeError(f"max_new_tokens is {max_new_tokens}", "give 1 or more")
        for row, prompt in enumerate(prompts):
            if not prompt or not 0 <= min(prompt) <= max(prompt) < self.vocab:
                fix = f"give tokens from 0 to {self.vocab - 1}"
                raise MistakeError(f"prompt {row} is empty or has unknown tokens", fix)
            room = self.cache_size - len(prompt) + 1  # the last token is not fed back
            if room < (max_new_tokens or 1):
                what = f"prompt {row} has {len(prompt)} tokens, and the cache {self.cache_size} slots"
                fix = "shorten it" if room < 1 else f"shorten it, or give --max-new-tokens {room} at most"
                raise MistakeError(what, fix)
        return self._generate(prompts, max_new_tokens or self.cache_size, sampling)

    def _generate(self, prompts: Sequence[Sequence[int]], most: int, sampling: Sampling) -> Iterator[list[int | None]]:
        batch = len(prompts)
        rngs = [np.random.default_rng(sampling.seed) for _ in prompts]  # no answer depends on its batch
        left = [min(most, self.cache_size - len(prompt) + 1) for prompt in prompts]
        lengths = np.zeros(batch, np.int64)
        turns = [self.session.io_binding() for _ in range(2 if self.states else 1)]
        buffers = []  # kept alive
        for tensor, new in self.kept:  # a cache is written in place; a state has two buffers, which take turns
            count = 2 if tensor["name"] in self.states else 1
            pair = [np.zeros((batch, *tensor["shape"][1:]), tensor["dtype"]) for _ in range(count)]
            where = [("cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data) for buffer in pair]
            for turn, binding in enumerate(turns):
                binding.bind_input(tensor["name"], *where[turn % count])
                binding.bind_output(new, *where[(turn + 1) % count])
            buffers.append(pair)
        bindings = itertools.cycle(turns)
        logits, fed = np.zeros((batch, self.vocab), np.float32), 0
        while fed < max(map(len, prompts)):  # in chunks; a row that has ended keeps its logits
            size = self._chunk(batch, max(map(len, prompts)) - fed)
            chunk: list[Sequence[int]] = [prompt[fed : fed + size] for prompt in prompts]
            step = self._step(next(bindings), lengths, chunk)
            for row, new_tokens in enumerate(chunk):
                if new_tokens:
                    logits[row] = step[row]
            fed += size
        while True:
            chosen = [sampling.choose(logits[r], rngs[r]) if left[r] else None for r in range(batch)]
            answer = [None if token in self.stop else token for token in chosen]
            if all(token is None for token in answer):
                return
            yield answer
            left = [0 if token is None else count - 1 for token, count in zip(answer, left, strict=True)]
            if not any(left):
                return
            feed: list[Sequence[int]] = [
                [token] if token is not None and left[r] else [] for r, token in enumerate(answer)
            ]
            logits = self._step(next(bindings), lengths, feed)

    def _chunk(self, batch: int, tokens: int) -> int:
        """How many of `tokens` of every row to run at once: as many as the model was built and proven for."""
        ranges = [p["sequence"] for p in self.profiles if p["batch"]["min"] <= batch <= p["batch"]["max"]]
        most = min(tokens, CHUNK, BATCH_CHUNK // batch)
        return max(min(int(each["max"]), most) for each in ranges if each["min"] <= most)

    def _step(
        self, binding: ort.IOBinding, lengths: npt.NDArray[np.int64], tokens: list[Sequence[int]]
    ) -> npt.NDArray[np.float32]:
        """Feed each row its new tokens, none to a row that has ended; return the logits of its last one [batch, vocab].

        lengths: [batch], tokens in each row's cache; the new ones are added.
        """
        counts = np.array([len(row) for row in tokens])
        sequence = int(counts.max())
        ids = np.zeros((len(tokens), sequence), np.int64)
        for row, new in enumerate(tokens):
            ids[row, : len(new)] = new
        # A row without new tokens gets one that is not counted: the next token of the row overwrites it. Not where a
        # cache keeps a sliding window only, which would drop a token for it, or a state takes it in.
        real = counts if self.windows_or_states else np.maximum(counts, 1)
        position = np.minimum(lengths, self.cache_size - sequence)
        feeds = {
            "input_ids": ids,
            "attention_mask": (np.arange(sequence) < real[:, None]).astype(np.int64),
            "position_ids": position[:, None] + np.arange(sequence),
            "cache_position": position,
        }
        for name, value in feeds.items():
            binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)
        every = self.logits["shape"][1] != 1
        out = np.empty((len(tokens), sequence if every else 1, self.vocab), self.logits["dtype"])
        binding.bind_output("logits", "cpu", 0, out.dtype.type, out.shape, out.ctypes.data)
        self.session.run_with_iobinding(binding)
        lengths += counts
        last = np.maximum(counts, 1) - 1 if every else np.zeros(len(tokens), np.int64)
        logits: npt.NDArray[np.float32] = out[np.arange(len(tokens)), last].astype(np.float32)
        return logits


def _version(text: str) -> list[int]:
    """1.32.0.dev1 is [1, 32, 0]."""
    return [int(part) for part in text.split("+")[0].split(".")[:3] if part.isdigit()]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="a text to answer or to continue")
    parser.add_argument("--max-new-tokens", type=int, help="default: as many as the cache holds")
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction, help="default: if there is a chat template")
    parser.add_argument("--system", metavar="TEXT", help="system message for the chat template")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the most probable token (default)")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the k most probable tokens; 0: all")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample among the fewest tokens of this probability")
    parser.add_argument("--seed", type=int, default=0, help="for sampling")
    parser.add_argument("--threads", type=int, help="default: one per core")
    parser.add_argument("--tokens", action="store_true", help='prompts are token ids, "1 2 3"; so are the answers')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer the prompts of the command line."""
    given = _arguments(arguments)
    sampling = Sampling(given.temperature, given.top_k, given.top_p, given.seed)
    model = Model(Path(__file__).parent, given.threads)
    if given.tokens:
        try:
            prompts = [[int(word) for word in prompt.split()] for prompt in given.prompts]
        except ValueError as error:
            raise MistakeError(f"not token ids: {error}", 'give whole numbers: --tokens "1 2 3"') from error
    elif len(given.prompts) == 1:
        pieces = model.answer(given.prompts[0], given.max_new_tokens, sampling, chat=given.chat, system=given.system)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return
    else:
        prompts = [model.encode(prompt, chat=given.chat, system=given.system) for prompt in given.prompts]
    for first in range(0, len(prompts), model.rows):
        group = prompts[first : first + model.rows]
        steps = list(model.generate(group, given.max_new_tokens, sampling))
        for row in range(len(group)):
            ids = [token for step in steps if (token := step[row]) is not None]
            if given.tokens:
                print(*ids, flush=True)
            elif model.text is not None:
                shown = {"prompt": given.prompts[first + row], "answer": model.text.decode(ids)}
                print(json.dumps(shown, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    try:
        main()
    except MistakeError as error:
        sys.exit(str(error))
