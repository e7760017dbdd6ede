"""Sliding windows are recognized by what a mask is at every position, not by how it is made."""

from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from pipeline.backends.onnxruntime import attention, lower, windows
from pipeline.core import layout
from pipeline.core.contract import GraphContract
from pipeline.graph import onnx_file
from pipeline.graph.editor import Editor
from tests.support.architectures import mostly_slow, random_model
from tests.support.lowered import assert_no_answer_changed
from tests.support.points import build_once

CACHE = 40
GRAPH = """
<ir_version: 10, opset_import: ["" : 24]>
g (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask, int64[batch] cache_position)
  => (%s[batch, 1, sequence, 40] mask)
<int64 zero = {0}, int64 one = {1}, int64[1] one_d = {1}, int64[2] axes = {1, 3}, int64[2] padding_axes = {2, 3},
 int64 size = {40}, int64 n = {6}, int64 odd_one = {17},
 float see = {0}, float hide = {-3.4028235e38}, float less = {-5}>
{
  shape = Shape <start = 1, end = 2> (input_ids)
  sequence = Squeeze (shape)
  steps = Range (zero, sequence, one)
  first = Unsqueeze (cache_position, one_d)
  positions = Add (first, steps)
  query = Unsqueeze (positions, axes)
  start = Unsqueeze (first, axes)
  slot = Range (zero, size, one)
  causal = LessOrEqual (slot, query)
  before = Sub (query, n)
  near = Greater (slot, before)
  window = And (causal, near)
  %s
}
"""
MASKS = {
    "a window": ("mask = Identity (window)", 6),
    "only causal": ("mask = Identity (causal)", CACHE),
    "added to scores": ("mask = Where (window, see, hide)", 6),
    "a smaller number added": ("mask = Where (window, see, less)", None),
    "and the first slot": ("sink = Equal (slot, zero) both = Or (window, sink) mask = And (both, causal)", None),
    "not at one position": ("odd = Equal (query, odd_one) mask = Xor (window, odd)", None),
    "chunks": ("a = Div (slot, n) b = Div (query, n) same = Equal (a, b) mask = And (same, causal)", None),
    "later slots too": ("after = Add (query, n) soon = Less (slot, after) mask = And (soon, near)", None),
    "all new tokens": ("new = GreaterOrEqual (slot, start) mask = Or (new, window)", None),
    "with padding": (
        "most = ReduceMax (attention_mask, one_d) any = Unsqueeze (most, padding_axes) real = Cast <to = 9> (any) "
        "mask = And (window, real)",
        None,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_a_window_or_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its positions are computed in many parts."""
    nodes, window = MASKS[name]
    editor = Editor(ir.from_proto(onnx.parser.parse_model(GRAPH % ("float" if "see" in nodes else "bool", nodes))))
    (mask,) = editor.graph.outputs
    assert windows.sliding_window(editor, mask, CACHE) == window
    monkeypatch.setattr(windows, "ELEMENTS", CACHE * 9)
    assert windows.sliding_window(editor, mask, CACHE) == window


@pytest.mark.parametrize("architecture", mostly_slow(["gemma2", "gemma3_text", "mistral", "starcoder2"], "gemma2"))
def test_an_engine_has_windows_in_place_of_masks(architecture: str, tmp_path: Path) -> None:
    """Layers without a window have none; nothing that made the masks is left."""
    contract = build_once(tmp_path, [], model=random_model(architecture))
    nodes = onnx.load(tmp_path / layout.ENGINE / layout.MODEL, load_external_data=False).graph.node
    fused = [n for n in nodes if n.op_type == "GroupQueryAttention"]
    found = [a.i for n in fused for a in n.attribute if a.name == "local_window_size"]
    assert found == [6] * (2 if architecture.startswith("gemma") else 3)
    assert not any(len(n.input) > 10 and n.input[10] for n in fused)
    assert not {"Range", "Greater", "LessOrEqual", "And"} & {n.op_type for n in nodes}
    assert_no_answer_changed(tmp_path, layout.SIMPLIFIED, contract)


def test_a_window_as_long_as_the_cache_is_none(
    window: tuple[Path, GraphContract], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the mask is only causal, which the kernel is anyway."""
    model = onnx_file.load(window[0] / layout.SIMPLIFIED)
    monkeypatch.setattr(attention, "sliding_window", lambda *_: window[1].cache_size)
    lower.lower(model, int8_activations=False)
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    assert len(nodes) == 3
    assert not any("local_window_size" in node.attributes or node.inputs[10] for node in nodes)
