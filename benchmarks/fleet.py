"""The workers' other end: start them, ask them one at a time, and hold still those that wait."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ANSWER_S = 900  # longest wait for one answer: perplexity step by step takes minutes


class Worker:
    """A process with one system. Between questions it is stopped (SIGSTOP): thread pools that spin while they wait
    would take the cores from the system that is measured."""

    def __init__(self, request: dict[str, Any], log: Path) -> None:
        threads = str(request["threads"])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # else a pool of processes that stays
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        self.lines = b""
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(request)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # signals reach the children too
            )
        self.log = log
        self.ready = self._answer()
        self._hold()

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to a command; {"why": ...} when there is none."""
        if self.process.poll() is not None:
            return {"why": f"its process has ended, see {self.log}"}
        self._signal(signal.SIGCONT)
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"why": f"its process has ended, see {self.log}"}
        answer = self._answer()
        self._hold()
        return answer

    def close(self) -> None:
        """End the process and its children."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.lines:
            ready, _, _ = select.select([descriptor], [], [], ANSWER_S)
            chunk = os.read(descriptor, 1 << 20) if ready else b""
            if not chunk:
                code = self.process.poll() if ready else None
                self.close()
                ended = f"its process ended with code {code}" if ready else f"no answer in {ANSWER_S} s"
                return {"why": f"{ended}, see {self.log}"}
            self.lines += chunk
        line, _, self.lines = self.lines.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _hold(self) -> None:
        """Stop it, and wait until it stands: the signal takes a moment to arrive."""
        self._signal(signal.SIGSTOP)
        process = psutil.Process(self.process.pid) if self.process.poll() is None else None
        for _ in range(1000):
            if not process or process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                return
            time.sleep(1e-3)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
