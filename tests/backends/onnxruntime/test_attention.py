"""Attention as GroupQueryAttention: only the used part of the cache is read, and what it cannot do stays standard."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from pipeline.backends.onnxruntime.attention import AttentionLowering
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.graph import onnx_file
from pipeline.graph.editor import Editor
from pipeline.runtime.open import open_engine
from tests.support.architectures import mostly_slow, random_model
from tests.support.lowered import WIDE, assert_no_answer_changed, operators
from tests.support.points import build_once


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
