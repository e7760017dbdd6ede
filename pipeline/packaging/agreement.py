"""Whether the runner of a package answers as kvforge does, token for token."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from pipeline.core.errors import Problem, UserError
from pipeline.packaging import run
from pipeline.runtime.open import open_engine
from pipeline.text.tokens import load_tokenizer

TEXTS = ("What is a cache?", "  naïve 你好 🙂\n\tdef f(x):  return x", "<s></s><|im_end|> 1234567 ")
SYSTEM = "Be brief."
NEW = 8  # greedy tokens that are compared
LONGEST = 24  # tokens of a prompt
FIX = "this is a bug of kvforge: please report it with the model's name"


def check(folder: Path) -> None:
    """Compare ids of texts and chats, and greedy tokens of a ragged batch. Raises UserError where they differ."""
    model = run.Model(folder)
    problems = list(_texts(folder, model))
    prompts = _prompts(model)
    got = list(model.generate(prompts, NEW))
    del model  # its weights leave memory before the next ones come
    want = _greedy(folder, prompts, len(got))
    for step, (new, expected) in enumerate(zip(got, want, strict=True)):
        wrong = [row for row, token in enumerate(new) if token is not None and token != expected[row]]
        if wrong:
            what = f"token {step} of prompt {wrong[0]} is {new[wrong[0]]} in the package, {expected[wrong[0]]} here"
            problems.append(Problem(what, "run.py", FIX))
            break
    if problems:
        raise UserError(problems)


def _texts(folder: Path, model: run.Model) -> Iterator[Problem]:
    """Problems of the token ids of texts and chats."""
    tokenizer = load_tokenizer(folder)
    if tokenizer is None or model.text is None:
        return
    for text in TEXTS:
        for chat in (False, True) if model.text.template else (False,):
            for system in (None, SYSTEM) if chat else (None,):
                try:
                    want = _encode(tokenizer, text, chat, system, model.text.template)
                except TemplateError:  # a template that refuses system messages
                    continue
                got = model.text.encode(text, chat=chat, system=system)
                if got != want:
                    how = "in the chat template" if chat else "as text"
                    yield Problem(f"{text!r} {how} has other tokens in the package than here", "run.py", FIX)
        ids = _encode(tokenizer, text, False, None, None)
        if "".join(model.text.stream(iter(ids))) != tokenizer.decode(ids, skip_special_tokens=True):
            yield Problem(f"the tokens of {text!r} are another text in the package than here", "run.py", FIX)


def _encode(tokenizer: Any, text: str, chat: bool, system: str | None, template: str | None) -> list[int]:
    """Tokens by transformers. Raises what the template raises."""
    if not chat:
        return list(tokenizer(text, verbose=False)["input_ids"])
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages.append({"role": "user", "content": text})
    options = {"chat_template": template, "add_generation_prompt": True, "return_dict": True}
    return list(tokenizer.apply_chat_template(messages, **options)["input_ids"])


def _prompts(model: run.Model) -> list[list[int]]:
    """Random prompts of several lengths, as many as the model takes at once, at most 3."""
    rng = np.random.default_rng(0)
    longest = min(LONGEST, model.cache_size - NEW + 1)
    lengths = [max(1, longest // (row + 1)) for row in range(min(3, model.rows))]
    return [rng.integers(0, model.vocab, length).tolist() for length in lengths]


def _greedy(folder: Path, prompts: list[list[int]], steps: int) -> list[list[int]]:
    """What the engine's own session answers, stop tokens or not."""
    session = open_engine(folder).session(len(prompts))
    feed, found = prompts, []
    for _ in range(steps):
        logits = session.step(feed)
        last = [len(row) - 1 if logits.shape[1] > 1 else 0 for row in feed]
        found.append(logits[np.arange(len(feed)), last].argmax(-1).tolist())
        feed = [[token] for token in found[-1]]
    return found
