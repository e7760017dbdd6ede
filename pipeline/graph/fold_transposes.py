"""Store a linear layer's weight as MatMul wants it, instead of transposing it at run time."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from pipeline.graph.editor import add_initializer


def fold_weight_transposes(model: ir.Model) -> None:
    """Store a linear layer's weight as MatMul wants it, [in, out], instead of transposing it at run time.

    A weight with other readers, such as a tied embedding, keeps its bytes and its Transpose.
    """
    graph = model.graph
    for node in [n for n in graph if n.op_type == "Transpose"]:
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
        graph.initializers.pop(str(weight.name))
        node.outputs[0].replace_all_uses_with(add_initializer(graph, transposed))
        graph.remove(node, safe=True)


def _transposed(tensor: ir.TensorProtocol, perm: Sequence[int]) -> ir.TensorProtocol:
    # in one piece: numpy writes a transposed view value by value, 2 s for the weights of SmolLM2-135M
    return ir.tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), name=tensor.name)
