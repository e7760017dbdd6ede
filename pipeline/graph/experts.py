"""Experts of a mixture in standard operators: a Loop over blocks of tokens that go to one expert.

The tokens of each expert are counted, and its rows of the router's choice are cut into blocks of up to 64 tokens; one
step of the Loop computes one block, with the weights of its expert taken from the stack. So only the weights of chosen
experts are read, memory does not grow with tokens times experts, and every shape follows from the number of tokens,
which TensorRT needs: it has no NonZero and no sizes that depend on data. The Loop ends after the last block in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from pipeline.graph.editor import Editor, attribute, described, operand

BLOCK = 64  # tokens of one expert that are computed at once; a decode step's blocks are as long as its batch
INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL
FLOATS = {kind: [f"tensor({name})" for name in ("float", "float16", "bfloat16")] for kind in ("T", "W")}
_OPTIONAL = onnx.defs.OpSchema.FormalParameterOption.Optional
# the node that translation writes and `write_experts` replaces; registered, as torch.onnx asks for a schema
SCHEMA = onnx.defs.OpSchema(
    "Experts",
    "kvforge",
    1,
    inputs=[
        onnx.defs.OpSchema.FormalParameter("hidden", "T"),
        onnx.defs.OpSchema.FormalParameter("indices", "tensor(int64)"),
        onnx.defs.OpSchema.FormalParameter("weights", "W"),
        onnx.defs.OpSchema.FormalParameter("up", "T"),
        onnx.defs.OpSchema.FormalParameter("down", "T"),
        onnx.defs.OpSchema.FormalParameter("up_bias", "T", param_option=_OPTIONAL),
        onnx.defs.OpSchema.FormalParameter("down_bias", "T", param_option=_OPTIONAL),
    ],
    outputs=[onnx.defs.OpSchema.FormalParameter("out", "T")],
    type_constraints=[(kind, types, "") for kind, types in FLOATS.items()],
    attributes=[
        onnx.defs.OpSchema.Attribute(name, kind)
        for kind, names in {
            onnx.defs.OpSchema.AttrType.STRING: ("layout", "function"),
            onnx.defs.OpSchema.AttrType.FLOAT: ("alpha", "limit", "shift"),
            onnx.defs.OpSchema.AttrType.INT: ("transposed", "limit_after"),
        }.items()
        for name in names
    ],
)
if not onnx.defs.has(SCHEMA.name, SCHEMA.domain):
    onnx.defs.register_schema(SCHEMA)
HIDDEN, INDICES, WEIGHTS, UP, DOWN, UP_BIAS, DOWN_BIAS = range(7)


@dataclass(frozen=True)
class Sizes:
    """Of one mixture."""

    experts: int
    chosen: int  # experts of a token
    hidden: int


def write_experts(model: ir.Model) -> None:
    """Replace every Experts node of a graph by standard operators."""
    editor = Editor(model)
    for node in [node for node in model.graph if (node.domain, node.op_type) == (SCHEMA.domain, SCHEMA.name)]:
        _Writer(editor, node).write()
    model.opset_imports.pop(SCHEMA.domain, None)


class _Writer:
    """Writes one mixture."""

    def __init__(self, editor: Editor, node: ir.Node) -> None:
        self.editor, self.node = editor, node
        self.inputs = [operand(node, i) for i in range(DOWN_BIAS + 1)]
        hidden, indices, down = (self.inputs[i] for i in (HIDDEN, INDICES, DOWN))
        assert hidden is not None
        assert indices is not None
        assert down is not None
        assert hidden.shape is not None
        assert indices.shape is not None
        assert down.shape is not None
        self.hidden, self.indices = hidden, indices
        self.sizes = Sizes(int(down.shape[0]), int(indices.shape[1]), int(hidden.shape[1]))  # type: ignore[arg-type]
        assert hidden.dtype is not None
        self.dtype: ir.DataType = hidden.dtype

    def write(self) -> None:
        sizes, dtype = self.sizes, self.dtype
        tokens = self.put("Shape", [self.hidden], [1], start=0, end=1)
        length = self.put("Min", [tokens, self.ints([BLOCK])], [1])  # of a block
        pairs = self.put("Mul", [tokens, self.ints([sizes.chosen])], [1])  # of a token and an expert
        # at most one block of each expert is not full
        most = self.put("Add", [self.put("Div", [pairs, length], [1]), self.ints([sizes.experts])], [1])
        blocks = self.put("Min", [pairs, most], [1])
        flat = self.put("Reshape", [self.indices, self.ints([-1])], [None])
        column = self.put("Unsqueeze", [flat, self.ints([-1])], [None, 1])
        every = self.constant(f"range_{sizes.experts}", np.arange(sizes.experts)[None])
        is_expert = self.put("Equal", [column, every], [None, sizes.experts], BOOL)
        ones = self.put("Cast", [is_expert], [None, sizes.experts], to=int(INT64))
        running = self.put("CumSum", [ones, self.ints(0)], [None, sizes.experts])
        count = self.put("ReduceSum", [ones, self.ints([0])], [sizes.experts], keepdims=0)
        rank = self.put("GatherElements", [running, column], [None, 1], axis=1)  # within the expert, from 1
        rank = self.put("Sub", [self.put("Squeeze", [rank, self.ints([-1])], [None]), self.ints([1])], [None])
        filled = self.put("Sub", [self.put("Add", [count, length], [sizes.experts]), self.ints([1])], [sizes.experts])
        needed = self.put("Div", [filled, length], [sizes.experts])  # blocks of each expert
        ends = self.put("CumSum", [needed, self.ints(0)], [sizes.experts])
        begins = self.put("Sub", [ends, needed], [sizes.experts])
        first = self.put("Mul", [self.put("Gather", [begins, flat], [None], axis=0), length], [None])
        position = self.put("Add", [first, rank], [None])  # row of a pair in all blocks
        counted = self.range(pairs)
        token = self.put("Div", [counted, self.ints([sizes.chosen])], [None])
        zeros = self.put("ConstantOfShape", [self.put("Mul", [blocks, length], [1])], [None], value=_zero())
        table = self.put("ScatterElements", [zeros, position, token], [None], axis=0)
        table = self.put("Reshape", [table, self.put("Concat", [blocks, length], [2], axis=0)], [None, None])
        after = self.put("Unsqueeze", [self.range(blocks), self.ints([-1])], [None, 1])
        passed = self.put(
            "LessOrEqual",
            [self.put("Unsqueeze", [ends, self.ints([0])], [1, sizes.experts]), after],
            [None, sizes.experts],
            BOOL,
        )
        passed = self.put("Cast", [passed], [None, sizes.experts], to=int(INT64))
        owner = self.put("ReduceSum", [passed, self.ints([1])], [None], keepdims=0)
        owner = self.put("Min", [owner, self.ints([sizes.experts - 1])], [None])  # of the blocks that are not used
        used = self.put("ReduceSum", [needed], [], keepdims=0)
        trips = self.put("Squeeze", [blocks], [])
        start = self.constant("true", np.array(True))
        loop = self.put("Loop", [trips, start], [None, None, sizes.hidden], dtype, body=self.body(table, owner, used))
        rows = self.put("Reshape", [loop, self.ints([-1, sizes.hidden])], [None, sizes.hidden], dtype)
        shape = self.put("Concat", [tokens, self.ints([sizes.chosen])], [2], axis=0)
        position = self.put("Reshape", [position, shape], [None, sizes.chosen])
        chosen = [None, sizes.chosen, sizes.hidden]
        picked = self.put("Gather", [rows, position], chosen, dtype, axis=0)
        weights = self.inputs[WEIGHTS]
        assert weights is not None
        factors = self.put("Unsqueeze", [weights, self.ints([-1])], [None, sizes.chosen, 1], weights.dtype)
        if weights.dtype != dtype:
            assert weights.dtype is not None
            picked = self.put("Cast", [picked], chosen, weights.dtype, to=int(weights.dtype))
        weighted = self.put("Mul", [picked, factors], chosen, weights.dtype)
        out = self.put("ReduceSum", [weighted, self.ints([1])], [None, sizes.hidden], weights.dtype, keepdims=0)
        if weights.dtype != dtype:
            out = self.put("Cast", [out], [None, sizes.hidden], dtype, to=int(dtype))
        out.shape = self.node.outputs[0].shape
        self.editor.replace(self.node.outputs[0], out)
        self.editor.graph.remove(self.node, safe=True)

    def body(self, table: ir.Value, owner: ir.Value, used: ir.Value) -> ir.Graph:
        """One block: [length, hidden] of the tokens in a row of the table, through its owner."""
        inside = _Body(self.dtype)
        step, go_on = ir.val("step", INT64, []), ir.val("go_on", BOOL, [])
        following = inside.put("Add", [step, self.ints(1)], [], INT64)
        more = inside.put("Less", [following, used], [], BOOL)
        expert = inside.put("Gather", [owner, step], [], INT64, axis=0)
        rows = inside.put("Gather", [table, step], [None], INT64, axis=0)
        x = inside.put("Gather", [self.hidden, rows], [None, self.sizes.hidden], axis=0)
        product = self.linear(inside, x, expert, UP, UP_BIAS)
        y = self.linear(inside, self.activation(inside, product), expert, DOWN, DOWN_BIAS)
        return ir.Graph([step, go_on], [more, y], nodes=inside.nodes, name="experts")

    def linear(self, inside: "_Body", x: ir.Value, expert: ir.Value, weight: int, bias: int) -> ir.Value:
        """A product with one expert's weight, plus its bias."""
        transposed = attribute(self.node, "transposed", 0)
        parts: list[ir.Value | None] = [x]
        width = None
        for value in (self.inputs[weight], self.inputs[bias]):
            if value is not None:
                assert value.shape is not None
                parts.append(inside.put("Gather", [value, expert], value.shape[1:], axis=0))
                if len(parts) == 2:
                    width = value.shape[2 if transposed else 1]
        return inside.put("Gemm", parts, [None, width], transB=int(not transposed))

    def activation(self, inside: "_Body", product: ir.Value) -> ir.Value:
        """What stands between the products; see pipeline.model.operators.Activation."""
        layout, limit, after, shift = (
            attribute(self.node, n, None) for n in ("layout", "limit", "limit_after", "shift")
        )
        if layout == "ungated":
            return self.function(inside, product)
        assert product.shape is not None
        half = [None, int(product.shape[1]) // 2]  # type: ignore[arg-type]  # a number
        if layout == "halves":
            gate, up = inside.node("Split", [product], [half, half], axis=-1, num_outputs=2)
        else:
            pairs = inside.put("Reshape", [product, self.ints([0, -1, 2])], [*half, 2])
            gate, up = (inside.put("Gather", [pairs, self.ints(i)], half, axis=2) for i in (0, 1))
        top, bottom = (self.number(v) for v in (limit, -limit)) if limit else (None, None)
        if limit:
            gate = gate if after else inside.put("Clip", [gate, None, top], half)
            up = inside.put("Clip", [up, bottom, top], half)
        gate = self.function(inside, gate)
        if limit and after:
            gate = inside.put("Clip", [gate, None, top], half)
        if shift:
            up = inside.put("Add", [up, self.number(shift)], half)
        return inside.put("Mul", [gate, up], half)

    def function(self, inside: "_Body", x: ir.Value) -> ir.Value:
        name, alpha = attribute(self.node, "function", ""), attribute(self.node, "alpha", 1.0)
        assert x.shape is not None
        shape = list(x.shape)
        if name == "silu":
            scaled = x if alpha == 1.0 else inside.put("Mul", [x, self.number(alpha)], shape)
            return inside.put("Mul", [x, inside.put("Sigmoid", [scaled], shape)], shape)
        if name in ("relu", "relu2"):
            x = inside.put("Relu", [x], shape)
            return x if name == "relu" else inside.put("Mul", [x, x], shape)
        return inside.put("Gelu", [x], shape, approximate="tanh" if name == "gelu_tanh" else "none")

    def range(self, end: ir.Value) -> ir.Value:
        """0, 1, ... up to a size [1]."""
        return self.put("Range", [self.ints(0), self.put("Squeeze", [end], []), self.ints(1)], [None])

    def put(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """The output of a new node before the mixture's; int64 unless said otherwise."""
        like = [described(dtype or INT64, shape)]
        return self.editor.insert(self.node, op, inputs, like=like, **attributes).outputs[0]

    def ints(self, numbers: Any) -> ir.Value:
        """A constant, shared with the other mixtures of the graph."""
        array = np.array(numbers, np.int64)
        return self.constant("_".join([("scalar", "vector")[array.ndim], *map(str, array.flat)]), array)

    def number(self, value: float) -> ir.Value:
        """A constant in the compute type."""
        return self.constant(f"{self.dtype.name.lower()}_{value}", np.array(value, self.dtype.numpy()))

    def constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        """A constant under this name."""
        return self.editor.constant(f"experts.{name}", array)


class _Body:
    """The nodes of a Loop's body."""

    def __init__(self, dtype: ir.DataType) -> None:
        self.nodes: list[ir.Node] = []
        self.dtype = dtype

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        shapes: Sequence[Sequence[Any]],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> Sequence[ir.Value]:
        """The outputs of a new node."""
        name = f"{op}_{len(self.nodes)}"
        made = ir.node(op, inputs, attributes=attributes, num_outputs=len(shapes), name=name)
        for index, (output, shape) in enumerate(zip(made.outputs, shapes, strict=True)):
            output.name = f"{name}.{index}"
            output.shape, output.type = ir.Shape(shape), ir.TensorType(dtype or self.dtype)
        self.nodes.append(made)
        return made.outputs

    def put(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Any],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """The output of a new node."""
        return self.node(op, inputs, [shape], dtype, **attributes)[0]


def _zero() -> ir.TensorProtocol:
    return ir.tensor(np.zeros(1, np.int64))
