"""operators: counted in the files of a point."""

from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from pipeline.core import layout
from pipeline.reporting import operators


def test_operators_of_a_built_point(proven: Path) -> None:
    """The program by its calls and the graphs by their nodes, the most frequent first."""
    found = {each.artifact: each for each in operators.operators(proven)}
    assert list(found) == ["wrapped", "onnx", "simplified", "quantized", "engine"]
    assert found["wrapped"].counts["kvforge.attend.default"] == found["simplified"].counts["Attention"] == 2
    assert found["engine"].counts["com.microsoft.GroupQueryAttention"] == 2
    assert found["onnx"].nodes > found["simplified"].nodes
    graph = onnx.load(proven / layout.SIMPLIFIED / layout.MODEL, load_external_data=False).graph
    assert found["simplified"].counts == Counter(node.op_type for node in graph.node)
    assert list(found["onnx"].counts.values()) == sorted(found["onnx"].counts.values(), reverse=True)


def test_branches_count(tmp_path: Path) -> None:
    """A node within a branch is a node."""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value_float=1.0)], "b", [], [out])
    chosen = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    given = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    result = [helper.make_tensor_value_info("z", TensorProto.FLOAT, [])]
    onnx.save(helper.make_model(helper.make_graph([chosen], "g", given, result)), tmp_path / "m.onnx")
    assert operators.of_graph(tmp_path / "m.onnx") == {"If": 1, "Constant": 2}


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    """Missing files, and files that are no models."""
    assert operators.operators(tmp_path) == ()
    for folder, name in ((layout.WRAPPED, layout.PROGRAM), (layout.ENGINE, layout.MODEL)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"no model")
    assert operators.operators(tmp_path) == ()
