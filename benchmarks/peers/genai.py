"""onnxruntime-genai: its model builder's graph in its own generator; `precision` fp32 or int4."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import Peer, Rows, surprise
from benchmarks.peers.onnx_weights import weight_bytes

NEVER = 5  # must be in the vocabulary


def builder(checkpoint: Path, folder: Path, precision: str) -> list[str]:
    """The command of its model builder."""
    where = ["-i", str(checkpoint), "-o", str(folder), "-c", str(folder / "cache")]
    return [sys.executable, "-m", "onnxruntime_genai.models.builder", *where, "-p", precision, "-e", "cpu"]


class System(Peer):
    """See Peer. max_length sets how many slots its shared cache has."""

    version = f"onnxruntime-genai {version('onnxruntime-genai')}, onnxruntime {version('onnxruntime')}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        import onnxruntime_genai as og

        self.og = og
        self.folder = folder
        config = og.Config(str(folder))
        # every system makes as many tokens as it is asked for: what ends a text is a code marker prose never has
        config.overlay(
            json.dumps(
                {
                    "model": {
                        "eos_token_id": [NEVER],
                        "decoder": {"session_options": {"intra_op_num_threads": threads}},
                    }
                }
            )
        )
        self.model = og.Model(config)

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        subprocess.run(builder(checkpoint, folder, options["precision"]), check=True)

    def begin(self, batch: int, cache: int) -> None:
        params = self.og.GeneratorParams(self.model)
        params.set_search_options(batch_size=batch, max_length=cache, do_sample=False)
        self.generator = self.og.Generator(self.model, params)

    def step(self, tokens: Rows) -> list[int]:
        # generate_next_token chooses, and feeds what was chosen before: only the prompt is given to it
        if self.generator.token_count() == 0:
            self.generator.append_tokens(np.array(tokens, np.int32))
        self.generator.generate_next_token()
        return self.generator.get_next_tokens().tolist()

    def end(self) -> None:
        del self.generator

    def surprise(self, windows: Rows) -> float:
        total = 0.0
        for row in windows:
            self.begin(1, 1024)
            self.generator.append_tokens(np.array([row], np.int32))
            total += surprise(self.generator.get_output("logits")[0, :-1], row[1:])
            self.end()
        return total

    def weight_bytes(self) -> int:
        return weight_bytes(self.folder / "model.onnx")
