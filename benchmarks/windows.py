"""An engine whose caches keep a sliding window only, beside the same one whose caches keep all tokens.

    python -m pipeline model=gemma3_270m_gguf precision=fp32 cache.size=8192 point=long
    python -m benchmarks.windows long [--threads 2]

Both engines are built from the point's final model. Steps and chunks are timed in turn after several numbers of tokens,
over caches of random numbers. The one with windows then decodes greedily until 1,500 tokens are out of its window. The
text must be the original's: one forward over it gives the original's choices. Writes windows.md.
"""

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from pipeline import engine
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.machine import cores
from pipeline.core.schema import Engine, Model, Profile, section
from pipeline.proof.reference import Reference
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime, Session
from pipeline.text.tokens import load_tokenizer

SCRATCH, ARTIFACTS = Path(".bench/windows"), Path("artifacts")
OUT = Path(__file__).parent / "windows.md"
DEPTHS = (256, 1000, 2000, 4000, 7900)  # tokens in the cache
STEPS, CHUNKS, CHUNK = 40, 5, 256  # how often each is run, tokens of a chunk
PROMPT, PAST_WINDOW = 32, 1500
READ = 64  # tokens that the original reads at once: its logits are 67 MB for a vocabulary of 262,144
ALL, WINDOW = "all tokens", "window only"
HEAD = f"""# Caches of sliding windows

| tokens before | step, {ALL}: ms | {WINDOW}: ms | ratio | {CHUNK} tokens, {ALL}: ms | {WINDOW}: ms | ratio |
|--:|--:|--:|--:|--:|--:|--:|
"""


def build(point: Path, threads: int) -> dict[str, Runtime]:
    """Both engines of a point's final model."""
    found: dict[str, Runtime] = {}
    for name, narrow in ((ALL, False), (WINDOW, True)):
        out = SCRATCH / point.name / name.replace(" ", "_")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        options = replace(section(Engine, point), window_cache=narrow)
        engine.build(point / layout.WRAPPED, layout.final_model(point), options, section(Profile, point), out)
        found[name] = open_engine(out, threads)
    return found


def timed(sessions: dict[str, Session], depth: int, sequence: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step of `sequence` tokens after `depth` tokens, median."""
    seconds = dict[str, list[float]]((name, []) for name in sessions)
    tokens = np.random.default_rng(0).integers(3, 1000, sequence).tolist()
    for session in sessions.values():
        session.write_caches(session.caches)  # as they are: what is in them takes no other time
        session.lengths[:] = depth
        session.step([tokens])
    for _ in range(repeats):
        for name, session in sessions.items():
            session.write_caches(session.caches)
            session.lengths[:] = depth
            start = time.perf_counter()
            session.step([tokens])
            seconds[name].append(time.perf_counter() - start)
    return {name: median(found) * 1e3 for name, found in seconds.items()}


def decode(session: Session, prompt: list[int], count: int) -> list[int]:
    """Greedy tokens, `count` after a prompt."""
    session.reset()
    feed, text = prompt, list[int]()
    for _ in range(count):
        text.append(int(session.step([feed])[0, 0].argmax()))
        feed = text[-1:]
    return text


def original(point: Path, prompt: list[int], text: list[int]) -> int:
    """How many tokens of a text, from its beginning, the original would have chosen too."""
    reader = Reference(loading.load(section(Model, point), point / layout.CHECKPOINT)).streaming()
    tokens = torch.tensor([[*prompt, *text[:-1]]])
    choices = np.concatenate([reader.logits(part)[0].argmax(-1).numpy() for part in tokens.split(READ, dim=1)])
    differ = np.flatnonzero(choices[len(prompt) - 1 :] != np.array(text))
    return int(differ[0]) if len(differ) else len(text)


def cells(times: dict[str, float]) -> str:
    """The cells of a comparison."""
    return f"{times[ALL]:.1f} | {times[WINDOW]:.1f} | {times[ALL] / times[WINDOW]:.2f}"


def main() -> None:
    """Measure the point on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.windows", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("point")
    parser.add_argument("--threads", type=int, default=cores())
    given = parser.parse_args()
    point = ARTIFACTS / given.point
    runtimes = build(point, given.threads)
    contract = runtimes[WINDOW].contract
    window = max(contract.windows.values())
    sessions = {name: runtime.session(1) for name, runtime in runtimes.items()}
    rng = np.random.default_rng(0)
    for session in sessions.values():
        for cache in session.caches:
            cache[...] = rng.standard_normal(cache.shape, np.float32)
    made = HEAD
    for depth in DEPTHS:
        if depth + CHUNK <= contract.cache_size:
            step, chunk = timed(sessions, depth, 1, STEPS), timed(sessions, depth, CHUNK, CHUNKS)
            made += f"| {depth} | {cells(step)} | {cells(chunk)} |\n"
    memory = {name: sum(cache.nbytes for cache in session.caches) / 1e6 for name, session in sessions.items()}
    made += f"""
* `python -m benchmarks.windows {given.point} --threads {given.threads}`. One row; medians of {STEPS} steps and {CHUNKS}
  chunks, in turn.
* {len(contract.windows) // 2} of {len(contract.caches) // 2} layers have a window of {window} tokens; `cache.size` is
  {contract.cache_size}.
* Caches of a row: {memory[ALL]:.0f} MB with all tokens, {memory[WINDOW]:.0f} MB with windows.
"""
    print(made, flush=True)
    tokenizer = load_tokenizer(point / layout.WRAPPED)
    assert tokenizer is not None
    prompt = tokenizer((point / layout.TEXT).read_text(encoding="utf-8")[:2000])["input_ids"][:PROMPT]
    text = decode(sessions[WINDOW], prompt, window + PAST_WINDOW - PROMPT)
    del sessions, session, runtimes  # so that the weights leave memory
    same = original(point, prompt, text)
    line = f"* Greedy tokens of the engine with windows that are the original's: {same} of {len(text)}"
    made += f"{line}, {PAST_WINDOW} of them past the window.\n"
    OUT.write_text(made, encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
