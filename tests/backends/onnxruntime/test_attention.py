"""Attention as GroupQueryAttention: only the used part of the cache is read, and what it cannot do stays standard."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pipeline.backends.onnxruntime.attention import AttentionLowering
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.core.profiles import Profiles
from pipeline.graph import onnx_file
from pipeline.graph.editor import Editor
from pipeline.runtime import quantized_cache
from pipeline.runtime.onnxruntime import OnnxRuntime
from pipeline.runtime.open import open_engine
from tests.support.architectures import mostly_slow, random_model
from tests.support.lowered import WIDE, assert_no_answer_changed, operators
from tests.support.points import build_once

QUANTIZED_CACHES = [
    ("llama", "int8"),
    pytest.param("gpt_oss", "int8", marks=pytest.mark.slow),  # sinks
    pytest.param("gpt2", "int4", marks=pytest.mark.slow),  # heads of 8: no kernel
]


def test_slots_beyond_the_used_ones_are_not_read(tiny: tuple[Path, GraphContract]) -> None:
    """NaN in every unused slot changes no logit: what is not read cannot cost time either."""
    folder, _ = tiny
    answers = []
    for filling in (0.0, np.nan):
        session = open_engine(folder / layout.ENGINE).session(2)
        for cache in session.caches:
            cache[...] = filling
        answers.append([session.step(tokens) for tokens in ([[1, 2, 3], [4]], [[5], [6]], [[7], [8, 9]])])
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize("architecture", mostly_slow(["llama", "qwen3"], "llama"))
def test_queries_are_scaled_ahead_of_quantized_weights(architecture: str, tmp_path: Path) -> None:
    """By a Mul in the place of the kernel's slower scale; packed projections or not, the numbers stay."""
    options = ["precision=int8", "quantize.rounding=nearest", "engine.int8_activations=false"]
    contract = build_once(tmp_path, options, model=random_model(architecture, **WIDE))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    scales = [a.f for n in nodes if n.op_type == "GroupQueryAttention" for a in n.attribute if a.name == "scale"]
    assert scales == [1.0] * len(scales) != []
    assert_no_answer_changed(tmp_path, layout.QUANTIZED, contract, atol=5e-5)  # of MatMulNBits, not of the scale


def test_head_sizes_without_a_kernel_stay_standard(tmp_path: Path) -> None:
    """GroupQueryAttention takes multiples of 16; GPT-2's tiny heads of 8 keep the standard Attention."""
    build_once(tmp_path, [], model=random_model("gpt2"))
    assert operators(tmp_path / layout.ENGINE)["Attention"] == 3


@pytest.mark.slow
def test_sinks_go_into_the_kernel(tmp_path: Path) -> None:
    """Each layer's, as [heads]; nothing of the portable form is left, and the answers stay."""
    contract = build_once(tmp_path, ["cache.size=96"], model=random_model("gpt_oss"))
    graph = onnx.load(tmp_path / layout.ENGINE / layout.MODEL).graph
    sinks = [node.input[11] for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert [tuple(t.dims) for name in sinks for t in graph.initializer if t.name == name] == [(4,)] * 3
    assert not {"Attention", "ReduceLogSumExp"} & operators(tmp_path / layout.ENGINE).keys()
    assert_no_answer_changed(tmp_path, layout.SIMPLIFIED, contract, atol=5e-5)


def test_options_that_the_kernel_lacks_stay_standard(tiny: tuple[Path, GraphContract]) -> None:
    """An attribute that GroupQueryAttention has no place for keeps its node as it is; the others are lowered."""
    model = onnx_file.load(tiny[0] / layout.SIMPLIFIED)
    editor = Editor(model)
    first, second = editor.nodes("Attention")
    first.attributes["left_window_size"] = ir.AttrInt64("left_window_size", 6)
    second.attributes["left_window_size"] = ir.AttrInt64("left_window_size", -1)  # no window
    lowering = AttentionLowering(editor)
    for node in (first, second):
        lowering.lower(node)
    editor.finish()
    found = {node.op_type: node.name for node in model.graph if node.op_type in ("Attention", "GroupQueryAttention")}
    assert found == {
        "Attention": "model.layers.0.self_attn.Attention",
        "GroupQueryAttention": "model.layers.1.self_attn.GroupQueryAttention",
    }


@pytest.mark.parametrize(("architecture", "dtype"), QUANTIZED_CACHES)
def test_a_quantized_cache_goes_into_the_kernel(architecture: str, dtype: str, tmp_path: Path) -> None:
    """With sinks, windows and soft caps as well. It stores the numbers that the portable graph stores, and the answers
    stay; an attention without a kernel reads the used slots by the standard operators."""
    options = [f"cache.dtype={dtype}", "cache.size=96", "quantize.calibration.tokens=256"]
    build_once(tmp_path, options, model=random_model(architecture))
    contract = GraphContract.load(tmp_path / layout.QUANTIZED / layout.CONTRACT)
    assert {cache.dtype for cache in contract.caches} == {"int8" if dtype == "int8" else "uint8"}
    count = operators(tmp_path / layout.ENGINE)
    fused = architecture in ("llama", "gpt_oss", "gemma2")
    assert ("GroupQueryAttention" in count, "DequantizeLinear" in count) == (fused, not fused)
    rows = [np.random.default_rng(0).integers(0, 128, n).tolist() for n in (30, 11)]
    steps = (rows, [[7], [8, 9, 10]], [[11], [12]], [[], [13]])
    plain = OnnxRuntime(tmp_path / layout.QUANTIZED / layout.MODEL, contract, Profiles.of_axes(contract)).session(2)
    own = open_engine(tmp_path / layout.ENGINE).session(2)
    for tokens in steps:
        want, got = (session.step(tokens) for session in (plain, own))
        active = [row for row, new in enumerate(tokens) if new]
        np.testing.assert_allclose(got[active], want[active], atol=0.02)  # a tie may be rounded the other way
    for tensor, *held in zip(contract.caches, plain.caches, own.caches, strict=True):
        for row, used in enumerate(own.lengths):
            others, numbers = (quantized_cache.numbers(contract, tensor, cache[row, :, :used]) for cache in held)
            assert (numbers != others).mean() < 0.003
            assert np.abs(numbers).max() > 0
