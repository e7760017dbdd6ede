"""Lowered engines for tests."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import engine
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.core.schema import Engine, Profile, section
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine

WIDE = {"intermediate_size": 512, "vocab_size": 512}  # weights of 64 KiB and more are quantized


def operators(folder: Path) -> Counter[str]:
    """Nodes per operator type."""
    return Counter(n.op_type for n in onnx.load(folder / layout.MODEL, load_external_data=False).graph.node)


def engine_of(point: Path, out: Path, **changes: Any) -> Path:
    """Build an engine of a point's model in the folder `out`, with other values in its section `engine`."""
    out.mkdir()
    options = replace(section(Engine, point), **changes)
    engine.build(point / layout.WRAPPED, layout.final_model(point), options, section(Profile, point), out)
    return out


def assert_no_answer_changed(folder: Path, artifact: str, contract: GraphContract, atol: float = 1e-5) -> None:
    """Ragged prefill, a ragged chunk after it and decode: the engine's logits are those of the graph it was made of."""
    steps = ([[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10]], [[11], [12]], [[], [13]])
    plain = OnnxRuntime(folder / artifact / layout.MODEL, contract, Profiles.of_axes(contract))
    sessions = [runtime.session(2) for runtime in (plain, open_engine(folder / layout.ENGINE))]
    for tokens in steps:
        want, got = (session.step(tokens) for session in sessions)
        active = [row for row, new in enumerate(tokens) if new]
        np.testing.assert_allclose(got[active], want[active], atol=atol)
