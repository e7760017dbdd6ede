"""Read a mixture of experts back from the standard operators that pipeline.graph.experts writes."""

from dataclasses import dataclass

import onnx_ir as ir

from pipeline.graph.editor import attribute, operand, producer_if


@dataclass(frozen=True)
class Stack:
    """The weights of one product for all experts, and their biases [experts, outputs], if there are any.

    weight: [experts, outputs, inputs], or the last two axes swapped when `transposed`.
    """

    weight: ir.Value
    bias: ir.Value | None
    transposed: bool


@dataclass(frozen=True)
class ExpertForm:
    """One mixture: out = sum over a token's experts of weight * down(activation(up(hidden))).

    hidden: [tokens, hidden_size]; indices, weights: [tokens, k]. product and activated: within the Loop, what the
    activation takes and gives.
    """

    hidden: ir.Value
    indices: ir.Value
    weights: ir.Value
    up: Stack
    down: Stack
    product: ir.Value
    activated: ir.Value
    out: ir.Value

    @classmethod
    def of(cls, loop: ir.Node) -> "ExpertForm | None":
        """The mixture that a Loop computes; None for any other Loop."""
        if loop.op_type != "Loop" or len(loop.inputs) != 2 or len(loop.outputs) != 1:
            return None
        body = loop.attributes["body"].as_graph()
        products = [node for node in body if node.op_type == "Gemm"]
        if len(products) != 2 or body.outputs[-1].producer() is not products[1]:
            return None
        first, second = products
        stacks = [_stack(node) for node in products]
        tokens = producer_if(first.inputs[0], "Gather")
        rows = producer_if(tokens.inputs[1], "Gather") if tokens is not None else None
        indices = _indices(rows.inputs[0]) if rows is not None else None
        found = _weighted(loop.outputs[0])
        if tokens is None or indices is None or found is None or stacks[0] is None or stacks[1] is None:
            return None
        hidden, activated = tokens.inputs[0], second.inputs[0]
        assert hidden is not None
        assert activated is not None
        return cls(hidden, indices, found[0], stacks[0], stacks[1], first.outputs[0], activated, found[1])


def _stack(product: ir.Node) -> Stack | None:
    """What one expert's weight and bias are taken from."""
    taken = [producer_if(operand(product, i), "Gather") for i in (1, 2)]
    if taken[0] is None or taken[0].inputs[0] is None:
        return None
    bias = taken[1].inputs[0] if taken[1] is not None else None
    return Stack(taken[0].inputs[0], bias, not attribute(product, "transB", 0))


def _indices(table: ir.Value | None) -> ir.Value | None:
    """The router's choice, from the table of each block's tokens."""
    for op, index in (("Reshape", 0), ("ScatterElements", 1), ("Add", 0), ("Mul", 0), ("Gather", 1), ("Reshape", 0)):
        node = producer_if(table, op)
        if node is None:
            return None
        table = node.inputs[index]
    return table


def _weighted(blocks: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The router's weights, and the sum that they are factors of."""
    value, weights = blocks, None
    for op in ("Reshape", "Gather", "Mul", "ReduceSum"):
        node = _only_reader(value)
        if node is not None and node.op_type == "Cast":
            value = node.outputs[0]
            node = _only_reader(value)
        one_expert = (
            op == "ReduceSum" and node is not None and node.op_type == "Squeeze"
        )  # as onnxsim writes it for k = 1
        if node is None or (node.op_type != op and not one_expert):
            return None
        if op == "Mul":
            other = producer_if(next((v for v in node.inputs if v is not value), None), "Unsqueeze")
            weights = other.inputs[0] if other is not None else None
        value = node.outputs[0]
    if weights is None:
        return None
    cast = _only_reader(value)
    if weights.dtype != blocks.dtype and cast is not None and cast.op_type == "Cast":
        value = cast.outputs[0]
    return weights, value


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = value.consumers()
    return readers[0] if len(readers) == 1 else None
