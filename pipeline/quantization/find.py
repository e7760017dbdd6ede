"""Find the weights of a graph that are worth quantizing, by what reads them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.graph.editor import last_products, logit_projections
from pipeline.graph.expert_form import ExpertForm

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
KEEPS_IDS = {"Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze"}  # their results are still token ids


@dataclass(frozen=True)
class Weight:
    """A weight and its readers: MatMul or Gemm for a linear one; Gather, and Transpose of a tied head, for a table;
    the Loop of a mixture for a stack of its experts' weights."""

    value: ir.Value
    readers: tuple[ir.Node, ...]
    is_table: bool
    is_head: bool
    by_rows: bool  # stored [N, K], output channels first; each expert's, in a stack
    is_stack: bool = False

    @property
    def tensor(self) -> ir.TensorProtocol:
        """Its numbers."""
        assert self.value.const_value is not None
        return self.value.const_value

    @property
    def width(self) -> int:
        """K: the values of a row."""
        return int(self.tensor.shape.numpy()[-1 if self.by_rows else -2])

    def rows(self) -> npt.NDArray[np.floating]:
        """Its numbers as rows [N, K], one for each output channel; of all experts, in a stack."""
        array = self.tensor.numpy()
        rows = array if self.by_rows else array.swapaxes(-1, -2)
        return rows.reshape(-1, self.width) if self.is_stack else rows

    def release(self) -> None:
        """Let its pages of the data file leave memory."""
        if isinstance(self.tensor, ir.ExternalTensor):
            self.tensor.release()


def find(graph: ir.Graph, least: int) -> list[Weight]:
    """The weights of at least `least` bytes that only linear layers, only embedding and tied head, or only a mixture's
    experts read; not those of its router."""
    last = set(logit_projections(graph))
    found = []
    loops = {loop: form for loop in graph if (form := ExpertForm.of(loop)) is not None}
    # in few bits another expert may be chosen; a router has a thousandth of the weights
    routers = set(last_products([value for form in loops.values() for value in (form.indices, form.weights)]))
    stacks = {stack.weight: (loop, stack) for loop, form in loops.items() for stack in (form.up, form.down)}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < least or tensor.dtype not in FLOATS:
            continue
        if value in stacks and len(value.uses()) == 1:
            loop, stack = stacks[value]
            found.append(Weight(value, (loop,), False, False, not stack.transposed, is_stack=True))
        if len(tensor.shape) != 2:
            continue
        uses = value.uses()
        readers = tuple(use.node for use in uses)
        layouts = {_layout(use.node, use.idx) for use in uses}
        if value.is_graph_output() or not uses or not routers.isdisjoint(readers):
            continue
        if layouts in ({"[K, N]"}, {"[N, K]"}):
            found.append(Weight(value, readers, False, not last.isdisjoint(readers), layouts == {"[N, K]"}))
        elif "rows" in layouts and layouts <= {"rows", "transposed"}:
            found.append(Weight(value, readers, True, False, True))
    return found


def _layout(node: ir.Node, position: int) -> str | None:
    """How a node reads a weight at an input; None for a way that cannot be quantized."""
    attributes = node.attributes
    if (node.op_type, position) == ("MatMul", 1):
        return "[K, N]"
    if (node.op_type, position) == ("Gemm", 1):
        plain = attributes.get_float("alpha", 1.0) == attributes.get_float("beta", 1.0) == 1.0
        if plain and not attributes.get_int("transA", 0):
            return "[N, K]" if attributes.get_int("transB", 0) else "[K, N]"
    if (node.op_type, position) == ("Gather", 0) and attributes.get_int("axis", 0) == 0 and _is_tokens(node.inputs[1]):
        return "rows"
    if node.op_type == "Transpose" and all(
        (use.node.op_type, use.idx) == ("MatMul", 1) for use in node.outputs[0].uses()
    ):
        return "transposed"
    return None


def _is_tokens(ids: ir.Value | None) -> bool:
    """Whether these are the graph's first input, input_ids: a table of positions is read by other numbers."""
    while ids is not None and (node := ids.producer()) is not None and node.op_type in KEEPS_IDS:
        ids = node.inputs[0]
    return ids is not None and ids.is_graph_input() and ids.name == "input_ids"
