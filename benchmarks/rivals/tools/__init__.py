"""Other exporters, one module each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

Rows = list[list[int]]
Build = Callable[[PreTrainedModel, Path, Path], Any]


@dataclass(frozen=True)
class Tool:
    """One exporter, by its own command or function.

    distribution: its package. ways: name -> build(model, checkpoint, folder), in the order in which they are tried.
    answer(what `build` returns, rows, end): the tokens that follow each row; `end` is a token that ends a text. Rows of
    different lengths are one batch, padded in the way that the tool's graph can express.
    """

    distribution: str
    ways: Mapping[str, Build]
    answer: Callable[[Any, Rows, int], Rows]


NAMES = {"onnxruntime-genai": "genai", "mobius": "mobius", "transformers.exporters": "exporters"}


def load(name: str) -> Tool:
    """Import a tool; its packages are in .venv-bench."""
    tool: Tool = import_module(f"benchmarks.rivals.tools.{NAMES[name]}").TOOL
    return tool
