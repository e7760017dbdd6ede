"""Greedy text with guesses that repeat it (pipeline.generation.lookup) beside the same text without.

    python -m pipeline wrap.logits=all point=all_logits
    python -m benchmarks.guesses all_logits

Texts are Python's own documentation and code: what repeats its prompt (a text that is given again and again, a function
that is to be written once more) and what does not. Both ways run in turn. Writes guesses.md.
"""

import argparse
import inspect
import json
import textwrap
import time
from pathlib import Path
from statistics import median

from pipeline.core import layout
from pipeline.generate import Generator

ARTIFACTS, OUT = Path("artifacts"), Path(__file__).parent / "guesses.md"
CODE = inspect.getsource(textwrap.dedent)
NOTICE = inspect.getdoc(json) or ""
PROMPTS = {  # name -> text, whether in the chat template
    "code that is copied": (f"{CODE}\n\n# The same function once more:\n\n{CODE[:60]}", False),
    "code with an edit": (f"Rename the variable margin to prefix and print the whole function again:\n\n{CODE}", True),
    "a summary": (f"Summarize this text, with its own words:\n\n{NOTICE[:1200]}", True),
    "a story": ("Write a short story about a lighthouse.", True),
    "an explanation": ("Explain how a bicycle stays upright.", True),
}
HEAD = """# Guesses that repeat the text

| text | tokens | without, tokens/s | with, tokens/s | ratio | steps |
|---|--:|--:|--:|--:|--:|
"""


def timed(generator: Generator, ids: list[int], new: int, lookup: bool) -> tuple[list[int], float, int]:
    """The new tokens, seconds of those after the first, and how many steps they took."""
    generator.lookup = lookup
    session = generator.runtime.session
    calls = 0

    def counted(batch: int):  # type: ignore[no-untyped-def]  # as the method that it replaces
        made = session(batch)
        step = made.step

        def one(tokens):  # type: ignore[no-untyped-def]  # the same
            nonlocal calls
            calls += 1
            return step(tokens)

        made.step = one  # type: ignore[method-assign]  # to count steps
        return made

    generator.runtime.session = counted  # type: ignore[method-assign]  # to count steps
    try:
        found, start = [], 0.0
        for (token,) in generator.tokens([ids], new):
            start = start or time.perf_counter()
            assert token is not None
            found.append(token)
        return found, time.perf_counter() - start, calls
    finally:
        generator.runtime.session = session  # type: ignore[method-assign]  # back to the method


def main() -> None:
    """Measure the point on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guesses", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("point")
    parser.add_argument("--new", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    generator = Generator.load(ARTIFACTS / asked.point / layout.ENGINE)
    generator.runtime.finish_loading()
    assert generator.tokenizer is not None
    made = HEAD
    for name, (text, chat) in PROMPTS.items():
        ids = generator.tokenizer.encode_prompt(text, chat=chat, system=None)
        new = min(asked.new, generator.runtime.contract.cache_size - len(ids))
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(asked.rounds):
            found = {}
            for lookup, times in seconds.items():
                found[lookup], took, steps = timed(generator, ids, new, lookup)
                times.append(took)
            assert found[True] == found[False], f"{name}: other tokens"
        without, guessing = ((len(found[True]) - 1) / median(times) for times in seconds.values())
        ratio = median(a / b for a, b in zip(*seconds.values(), strict=True))
        made += f"| {name} | {len(found[True])} | {without:.1f} | {guessing:.1f} | {ratio:.2f} | {steps} |\n"
        print(made.splitlines()[-1], flush=True)
    made += f"""
* `python -m benchmarks.guesses {asked.point}`. Greedy text of one row, at most {asked.new} tokens; {asked.rounds}
  runs of each, in turn; the prompt is not counted. Speeds and
  ratio are medians. Every text has the same tokens both ways.
"""
    OUT.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
