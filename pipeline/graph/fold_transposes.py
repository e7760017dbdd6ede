"""Store a linear layer's weight as MatMul wants it, instead of transposing it at run time."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import Editor


def fold_weight_transposes(model: ir.Model) -> None:
    """Store each linear layer's weight as [in, out].

    A weight with other readers, such as a tied embedding, keeps its bytes and its Transpose.
    """
    editor = Editor(model)
    for node in editor.nodes("Transpose"):
        weight = node.inputs[0]
        if weight is None or weight.const_value is None or len(weight.uses()) != 1 or weight.is_graph_output():
            continue
        tensor = weight.const_value
        perm = node.attributes["perm"].as_ints()
        transposed = ir.LazyTensor(
            partial(_transposed, tensor, perm),
            dtype=tensor.dtype,
            shape=ir.Shape([tensor.shape.numpy()[i] for i in perm]),
            name=weight.name,
        )
        editor.graph.initializers.pop(str(weight.name))  # the transposed weight takes the name
        editor.replace(node.outputs[0], editor.initializer(transposed))
        editor.remove([node])


def _transposed(tensor: ir.TensorProtocol, perm: Sequence[int]) -> ir.TensorProtocol:
    # contiguous: numpy writes a transposed view value by value, which takes 2 s for the weights of SmolLM2-135M
    return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), name=tensor.name)
