"""Attention that stays standard reads the used slots only."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine
from pipeline.runtime.session import Runtime
from tests.support.architectures import mostly_slow, random_model
from tests.support.lowered import assert_no_answer_changed, operators
from tests.support.points import build_once

# fused and standard attentions: no kernel for heads of 8, latents, readers of an earlier layer's cache with a mask
LEFT = {"gpt2": (0, 3), "deepseek_v3": (0, 3)}


def answers(runtime: Runtime, filling: float) -> list[np.ndarray]:
    """Of a ragged prefill, a decode step and ragged chunks, over a cache that held something else before."""
    session = runtime.session(2)
    for cache in session.caches:
        cache[...] = filling
    return [session.step(tokens) for tokens in ([[1, 2, 3], [4, 5, 6]], [[5], [6]], [[7, 8], [8, 9]])]


@pytest.mark.parametrize("architecture", mostly_slow(LEFT, "gpt2"))
def test_slots_beyond_the_used_ones_are_not_read(architecture: str, tmp_path: Path) -> None:
    """NaN in every unused slot changes no logit of the engine; in the portable graph it reaches all."""
    contract: GraphContract = build_once(tmp_path, ["cache.size=96"], model=random_model(architecture))
    found: Counter[str] = operators(tmp_path / layout.ENGINE)
    assert (found["GroupQueryAttention"], found["Attention"]) == LEFT[architecture]
    assert_no_answer_changed(tmp_path, layout.SIMPLIFIED, contract, atol=5e-5)
    engine = open_engine(tmp_path / layout.ENGINE)
    for one, other in zip(answers(engine, 0.0), answers(engine, np.nan), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = OnnxRuntime(tmp_path / layout.SIMPLIFIED / layout.MODEL, contract, Profiles.of_axes(contract))
    assert any(np.isnan(step).any() for step in answers(plain, np.nan))


def test_a_cache_is_cut_once(tmp_path: Path) -> None:
    """One slice for each cache, however many attentions read it, and none of what is no cache."""
    build_once(tmp_path, ["cache.size=96"], model=random_model("gpt2"))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    sliced = [node.input[0] for node in nodes if node.op_type == "Slice" and node.input[0].startswith("present")]
    assert sorted(sliced) == [f"present.{layer}.{part}" for layer in range(3) for part in ("key", "value")]
