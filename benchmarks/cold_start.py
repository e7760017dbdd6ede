"""One token from a cold start: what `python -m pipeline.generate POINT PROMPT --max-new-tokens 1` takes.

    python -m benchmarks.cold_start smollm2 [--beside NAME=FOLDER ...] [--llama-cpp PYTHON]

FOLDER: another checkout, such as an older one; they run in turn on the same engine, whose files are in the page cache.
PYTHON: one that has llama-cpp-python, as `make bench` installs it; it reads the same weights in fp32 from a GGUF file.
Writes cold_start.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
OUT = HERE / "cold_start.md"
PROMPT = "What is the capital of France?"
THREADS = len(os.sched_getaffinity(0))
LLAMA_CPP = f"""
import sys
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=1024, n_threads={THREADS}, type_k=0, type_v=0, verbose=False)  # 0: fp32
chat = [{{"role": "user", "content": {PROMPT!r}}}]
print(model.create_chat_completion(chat, max_tokens=1, temperature=0)["choices"][0]["message"]["content"])
"""
CONVERT = """
from pathlib import Path
from benchmarks.peers.llamacpp import System
System.build(Path(), Path(__import__("sys").argv[1]), {"type": "ALL_F32"})
"""
HEAD = """# One token from a cold start

| | seconds | processor seconds | peak memory, MB |
|---|--:|--:|--:|
"""


@dataclass(frozen=True)
class Start:
    """What one process took: seconds, seconds of all processors together, and bytes that it held at most."""

    seconds: float
    processor: float
    peak: int


def started(command: list[str], code: Path) -> Start:
    """Run a command with the code of a checkout. Raises CalledProcessError when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(code)}
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Start(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def measured(commands: dict[str, tuple[list[str], Path]], rounds: int) -> dict[str, list[Start]]:
    """Starts of each command with the code of a checkout, in turn, after one that is not counted."""
    found: dict[str, list[Start]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, (command, code) in commands.items():
            start = started(command, code)
            if number:
                found[name].append(start)
    return found


def row(name: str, starts: list[Start]) -> str:
    """A line of the table: the fastest start, of which other work on the machine takes least, and medians."""
    fastest, processor = min(s.seconds for s in starts), median(s.processor for s in starts)
    return f"| {name} | {fastest:.2f} | {processor:.2f} | {median(s.peak for s in starts) / 2**20:.0f} |\n"


def main() -> None:
    """Measure the point on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold_start", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("point")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--llama-cpp", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    checkouts = {"kvforge": HERE.parent}
    checkouts |= {name: Path(folder) for name, _, folder in (each.partition("=") for each in asked.beside)}
    ours = [sys.executable, "-m", "pipeline.generate", asked.point, PROMPT, "--max-new-tokens", "1"]
    commands = {name: (ours, code) for name, code in checkouts.items()}
    with tempfile.TemporaryDirectory() as folder:
        if asked.llama_cpp:
            converted = started([asked.llama_cpp, "-c", CONVERT, folder], HERE.parent)
            print(f"fp32 GGUF written in {converted.seconds:.0f} s")
            commands["llama.cpp"] = ([asked.llama_cpp, "-c", LLAMA_CPP, f"{folder}/model.gguf"], HERE.parent)
        made = HEAD + "".join(row(*each) for each in measured(commands, asked.rounds).items())
    made += f"""
* `python -m benchmarks.cold_start {asked.point}`: a process that imports, loads, reads the prompt in the model's chat
  template, prints one token and ends. {asked.rounds} starts each, in turn: the fewest seconds, median processor seconds
  and median memory.
"""
    OUT.write_text(made, encoding="utf-8")
    print(made)


if __name__ == "__main__":
    main()
