"""split: projections that are split for TensorRT compute the same."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from pipeline.backends.tensorrt.split import split_last_axis
from pipeline.graph.editor import Editor

INT64 = ir.DataType.INT64


def constant(name: str, array: np.ndarray) -> ir.Value:
    """A value with its numbers."""
    return ir.val(name, const_value=ir.tensor(array, name=name))


def typed(value: ir.Value, *shape: int | str) -> ir.Value:
    """The value with a shape."""
    value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape(shape)
    return value


def rewritten(graph: ir.Graph, folder: Path, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], set[str]]:
    """A graph's outputs before and after, and its operators after."""
    model = ir.Model(graph, ir_version=11)
    results = []
    for name in ("before", "after"):
        if name == "after":
            editor = Editor(model)
            split_last_axis(editor)
            editor.finish()
        ir.save(model, folder / name)
        results.append(onnxruntime.InferenceSession(folder / name).run(None, {"x": x}))
    return results[0], results[1], {node.op_type for node in model.graph}


def test_heads_are_split_before_they_are_apart(tmp_path: Path) -> None:
    """4 query, 2 key and 2 value heads of one projection, each as [batch, heads, sequence, head_dim]."""
    x = typed(ir.val("x"), 2, "n", 64)
    shape, sizes = constant("shape", np.array([0, 0, 8, 8])), constant("sizes", np.array([4, 2, 2]))
    reshape = ir.node("Reshape", [x, shape])
    transpose = ir.node("Transpose", [typed(reshape.outputs[0], 2, "n", 8, 8)], {"perm": [0, 2, 1, 3]})
    split = ir.node("Split", [typed(transpose.outputs[0], 2, 8, "n", 8), sizes], {"axis": 1}, num_outputs=3)
    for i, heads in enumerate((4, 2, 2)):
        typed(split.outputs[i], 2, heads, "n", 8).name = f"out{i}"
    graph = ir.Graph(
        [x], split.outputs, nodes=[reshape, transpose, split], initializers=[shape, sizes], opset_imports={"": 24}
    )
    x_array = np.random.default_rng(0).random((2, 3, 64), np.float32)
    before, after, _ = rewritten(graph, tmp_path, x_array)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)
    (found,) = [node for node in graph if node.op_type == "Split"]
    assert found.attributes["axis"].as_int() == -1
    assert found.inputs[0].name == "x"
