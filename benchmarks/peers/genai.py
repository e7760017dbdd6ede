"""onnxruntime-genai: its model builder's graph in its own generator; `precision` fp32 or int4."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.peers import Peer, Rows, nll
from benchmarks.peers.onnx_weights import weight_bytes

NEVER = 5  # must be in the vocabulary
PRUNE = "/lm_head/prune/"
ALL_LOGITS = "all_logits.onnx"


def builder(checkpoint: Path, folder: Path, precision: str) -> list[str]:
    """The command of its model builder; like this project's graph, the built one has logits at the last token only."""
    where = ["-i", str(checkpoint), "-o", str(folder), "-c", str(folder / "cache")]
    return [
        sys.executable,
        "-m",
        "onnxruntime_genai.models.builder",
        *where,
        "-p",
        precision,
        "-e",
        "cpu",
        "--extra_options",
        "prune_lm_head=true",
    ]


class System(Peer):
    """See Peer. max_length sets how many slots its shared cache has."""

    version = f"onnxruntime-genai {version('onnxruntime-genai')}, onnxruntime {version('onnxruntime')}"

    def __init__(self, folder: Path, options: dict[str, Any], threads: int) -> None:
        import onnxruntime_genai as og

        self.og = og
        self.folder = folder
        self.threads = threads
        self.model = self._load("model.onnx")

    def _load(self, file: str) -> Any:
        config = self.og.Config(str(self.folder))
        # every system makes as many tokens as it is asked for: what ends a text is a code marker prose never has
        config.overlay(
            json.dumps(
                {
                    "model": {
                        "eos_token_id": [NEVER],
                        "decoder": {"filename": file, "session_options": {"intra_op_num_threads": self.threads}},
                    }
                }
            )
        )
        return self.og.Model(config)

    @staticmethod
    def build(checkpoint: Path, folder: Path, options: dict[str, Any]) -> None:
        subprocess.run(builder(checkpoint, folder, options["precision"]), check=True)
        _with_all_logits(folder)

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

    def nll(self, windows: Rows) -> float:
        total = 0.0
        model, self.model = self.model, self._load(ALL_LOGITS)
        for row in windows:
            self.begin(1, 1024)
            self.generator.append_tokens(np.array([row], np.int32))
            total += nll(self.generator.get_output("logits")[0, :-1], row[1:])
            self.end()
        self.model = model
        return total

    def weight_bytes(self) -> int:
        return weight_bytes(self.folder / "model.onnx")


def _with_all_logits(folder: Path) -> None:
    """Write the model beside itself, over the same weights, without the nodes that keep the last token's state: for
    perplexity."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    pruning = [node for node in model.graph.node if node.name.startswith(PRUNE)]
    kept, whole = pruning[-1].output[0], pruning[0].input[0]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == kept:
                node.input[index] = whole
    for node in pruning:
        model.graph.node.remove(node)
    del model.graph.value_info[:]
    logits = next(out for out in model.graph.output if out.name == "logits")
    logits.type.tensor_type.shape.dim[1].dim_param = "sequence_length"
    onnx.save(model, folder / ALL_LOGITS)
