"""A model's two files: small tensors in the graph, large ones beside it, not read before they are used."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from pipeline.core.layout import DATA, MODEL
from pipeline.graph import onnx_file


def test_large_weights_lie_in_the_data_file(tmp_path: Path) -> None:
    """Above 64 KiB; a smaller one stays where constant folding reaches it. Loaded, both are what they were."""
    sizes = {"small": onnx_file.INLINE_UP_TO // 4, "large": onnx_file.INLINE_UP_TO // 4 + 1}
    arrays = {name: np.random.default_rng(0).random(size, np.float32) for name, size in sizes.items()}
    values = [ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    nodes = [ir.node("Neg", [value]) for value in values]
    graph = ir.Graph([], [n.outputs[0] for n in nodes], nodes=nodes, initializers=values, opset_imports={"": 24})
    onnx_file.save(ir.Model(graph, ir_version=11), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [MODEL, DATA]
    proto = onnx.load(tmp_path / MODEL, load_external_data=False)
    outside = [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert outside == ["large"]
    loaded = onnx_file.load(tmp_path).graph.initializers
    assert isinstance(loaded["large"].const_value, ir.ExternalTensor)
    for name, array in arrays.items():
        tensor = loaded[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), array)
