"""One system in a process of its own. Reads commands and writes answers, one JSON object per line.

    python -m benchmarks.worker '{"module": ..., "folder": ..., "options": {...}, "threads": 2, "tokens": "..."}'

Commands: {"do": "case", "batch": 1, "prompt": 44, "new": 128, "cache": 1024}, {"do": "memory", "cache": 1024},
{"do": "perplexity"}; of benchmarks.cache: {"do": "fill", "used": 1000, "slots": 1024}, {"do": "steps", "count": 9},
{"do": "end"}, {"do": "read", "chunk": 512}.
A failure is an answer too: {"why": "..."}.
"""

import contextlib
import ctypes
import json
import math
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks import text
from benchmarks.peers import Peer, UnsupportedError, peer_class


def run_case(peer: Peer, tokens: list[int], case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the prompt and of each step after it; the first row's new tokens; the peak memory meanwhile."""
    prompts = text.prompts(tokens, case["batch"], case["prompt"])
    warm_up(peer, prompts, case["cache"])
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # reset the peak memory
    peer.begin(case["batch"], case["cache"])
    try:
        start = time.perf_counter()
        chosen = peer.step(prompts)
        prefill = time.perf_counter() - start
        new, steps = [chosen[0]], []
        for _ in range(case["new"]):
            rows = [[token] for token in chosen]
            start = time.perf_counter()
            chosen = peer.step(rows)
            steps.append(time.perf_counter() - start)
            new.append(chosen[0])
        return {"prefill_s": prefill, "steps_s": steps, "tokens": new, "peak_mb": held_mb("VmHWM")}
    finally:
        peer.end()


def warm_up(peer: Peer, prompts: list[list[int]], cache: int) -> None:
    """Make a short run. A process that was stopped finds its threads asleep and other systems' weights in the
    processor's cache, which a system in use does not."""
    peer.begin(len(prompts), cache)
    chosen = peer.step([row[:8] for row in prompts])
    for _ in range(2):
        chosen = peer.step([[token] for token in chosen])
    peer.end()


def run_memory(peer: Peer, tokens: list[int], cache: int) -> dict[str, Any]:
    """Memory of a session of one row whose cache is full: Linux reserves an empty cache without providing it."""
    peer.begin(1, cache)
    try:
        peer.step([tokens[: cache - 1]])
        peer.step([tokens[cache - 1 : cache]])
        return {"session_mb": held_mb("VmRSS")}
    finally:
        peer.end()


def held_mb(kind: str) -> float:
    """Memory of this process in MB (2^20 bytes), mapped files included: "VmRSS" is the present, "VmHWM" the peak."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split(f"{kind}:")[1].split()[0]) / 2**10


def perplexity(peer: Peer, tokens: list[int]) -> dict[str, Any]:
    """The perplexity of the whole text, window by window."""
    windows = text.windows(tokens)
    total = peer.nll(windows)
    return {"perplexity": math.exp(total / sum(len(window) - 1 for window in windows))}


def fill(peer: Peer, used: int, slots: int) -> dict[str, Any]:
    """Bytes of a token in the cache that was made."""
    peer.fill(used, slots)
    return {"bytes": peer.cache_bytes()}


def steps(peer: Peer, count: int) -> dict[str, Any]:
    """Processor time of steps of one token, of all threads of this process."""
    seconds = []
    for _ in range(count):
        start = time.process_time()
        peer.step([[5]])
        seconds.append(time.process_time() - start)
    return {"steps_s": seconds}


def failure(error: Exception) -> dict[str, Any]:
    """The answer for an error; its traceback goes to the worker's log."""
    if not isinstance(error, UnsupportedError):
        traceback.print_exception(error)
    name = "" if isinstance(error, UnsupportedError) else f"{type(error).__name__}: "
    return {"why": (name + " ".join(str(error).split()))[:300]}


def end_with_parent() -> None:
    """Have Linux kill this process when its parent ends for any reason: a stopped worker would keep its memory
    forever, a computing one would take the cores from the next run."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Load, then answer until the input ends."""
    end_with_parent()
    request = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of the systems is not an answer

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")

    try:
        tokens = json.loads(Path(request["tokens"]).read_text(encoding="utf-8"))
        start = time.perf_counter()
        kind = peer_class(request["module"])
        peer = kind(Path(request["folder"]), request["options"], request["threads"])
        ready = {"version": kind.version, "load_s": time.perf_counter() - start}
        with contextlib.suppress(Exception):  # a figure that may be missing
            ready["weight_bytes"] = peer.weight_bytes()
        answer(ready)
    except Exception as error:
        answer(failure(error))
        return
    for line in sys.stdin:
        command = json.loads(line)
        try:
            match command["do"]:
                case "case":
                    answer(run_case(peer, tokens, command))
                case "memory":
                    answer(run_memory(peer, tokens, command["cache"]))
                case "perplexity":
                    answer(perplexity(peer, tokens))
                case "fill":
                    answer(fill(peer, command["used"], command["slots"]))
                case "steps":
                    answer(steps(peer, command["count"]))
                case "end":
                    peer.end()
                    answer({})
                case "read":
                    answer({"nlls": peer.read(tokens, command["chunk"])})
        except Exception as error:
            answer(failure(error))


if __name__ == "__main__":
    main()
