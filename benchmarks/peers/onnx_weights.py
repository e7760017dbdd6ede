"""How many bytes of weights an ONNX model reads in a decode step."""

from pathlib import Path

import onnx
from onnx import TensorProto

LOOKUPS = {"Gather", "GatherBlockQuantized"}  # read one row of the table
BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4}


def weight_bytes(model: Path) -> int:
    """Bytes of all initializers that some other node than a lookup takes."""
    graph = onnx.load(model, load_external_data=False).graph
    read = {name for node in graph.node if node.op_type not in LOOKUPS for name in node.input}
    total = 0
    for tensor in graph.initializer:
        if tensor.name in read:
            count = 1
            for dim in tensor.dims:
                count *= dim
            bits = BITS.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            total += count * bits // 8
    return total
