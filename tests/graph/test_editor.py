"""Editor: constants are compared, new nodes are named after their module, values are replaced with their readers."""

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.graph.editor import Editor, described, integers, logit_projections, producer_if
from pipeline.graph.naming import MODULE

FLOAT = ir.TensorType(ir.DataType.FLOAT)


@pytest.fixture
def editor() -> Editor:
    """y = Relu(x @ w), with names of modules, and z = Neg(y)."""
    x = ir.Value(name="x", shape=ir.Shape(["batch", 4]), type=FLOAT)
    w = ir.val("w", const_value=ir.tensor(np.eye(4, dtype=np.float32), name="w"))
    product = ir.node("MatMul", [x, w], name="layers.0.proj.MatMul", metadata_props={MODULE: "layers.0.proj"})
    relu = ir.node("Relu", product.outputs, name="layers.0.act.Relu", metadata_props={MODULE: "layers.0.act"})
    negated = ir.node("Neg", relu.outputs, name="Neg")
    for node, name in ((product, "p"), (relu, "y"), (negated, "z")):
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, FLOAT, ir.Shape(["batch", 4])
    outputs = [relu.outputs[0], negated.outputs[0]]
    graph = ir.Graph([x], outputs, nodes=[product, relu, negated], initializers=[w], opset_imports={"": 24})
    return Editor(ir.Model(graph, ir_version=11))


def test_a_constant_is_shared(editor: Editor) -> None:
    """The same numbers under one name are one initializer."""
    first = editor.constant("one", np.array([1], np.int64))
    assert editor.constant("one", np.array([1], np.int64)) is first
    assert integers(first) == [1]


@pytest.mark.parametrize(
    "other",
    [np.array([2], np.int64), np.array([1], np.int32), np.array(1, np.int64), np.array([1, 1], np.int64)],
    ids=["number", "type", "rank", "size"],
)
def test_other_numbers_under_a_known_name_are_an_error(editor: Editor, other: np.ndarray) -> None:
    """Two passes that chose one name would otherwise read each other's numbers."""
    editor.constant("one", np.array([1], np.int64))
    with pytest.raises(ValueError, match="another constant one"):
        editor.constant("one", other)


def test_nan_and_minus_zero_are_compared_by_their_bits(editor: Editor) -> None:
    """NaN equals itself here, and 0 is not -0: what counts is what a graph would hold."""
    editor.constant("nan", np.array([np.nan], np.float32))
    editor.constant("nan", np.array([np.nan], np.float32))
    editor.constant("zero", np.array([0.0], np.float32))
    with pytest.raises(ValueError, match="zero"):
        editor.constant("zero", np.array([-0.0], np.float32))


def test_an_initializer_takes_no_name_twice(editor: Editor) -> None:
    """Weights are not compared, they are never the same."""
    with pytest.raises(ValueError, match="w"):
        editor.initializer(ir.tensor(np.eye(4, dtype=np.float32), name="w"))


def test_nodes_are_named_after_their_module(editor: Editor) -> None:
    """That of the anchor, or one that is given; metadata goes with it where the graph has any."""
    product, relu, negated = editor.graph
    nodes = [
        editor.insert(relu, "Abs", [relu.inputs[0]]),
        editor.insert(relu, "Abs", [relu.inputs[0]], module="layers.0.packed"),
        editor.insert(negated, "Abs", [negated.inputs[0]], module="layers.0.packed"),
    ]
    assert [node.name for node in nodes] == ["layers.0.act.Abs", "layers.0.packed.Abs", "layers.0.packed.Abs"]
    assert [node.metadata_props.get(MODULE) for node in nodes] == ["layers.0.act", "layers.0.packed", None]
    after = editor.insert(product, "Exp", product.outputs, after=True)
    assert [node.op_type for node in editor.graph] == ["MatMul", "Exp", "Abs", "Abs", "Relu", "Abs", "Neg"]
    assert after.name == "layers.0.proj.Exp"


def test_an_output_gets_shape_and_type(editor: Editor) -> None:
    """Of another value, or as described; neither where nothing is known."""
    relu = editor.graph[1]
    like = [relu.outputs[0], described(ir.DataType.INT64, [2, 3]), None]
    split = editor.insert(relu, "Split", [relu.inputs[0]], like=like)
    assert [output.dtype for output in split.outputs] == [ir.DataType.FLOAT, ir.DataType.INT64, None]
    assert [output.shape for output in split.outputs] == [ir.Shape(["batch", 4]), ir.Shape([2, 3]), None]


def test_replacing_as_a_node_is_inserted(editor: Editor) -> None:
    """Name, type, shape and readers go over, the graph's own output included; the old node can be removed."""
    _, relu, negated = editor.graph
    new = editor.insert(relu, "Sigmoid", relu.inputs, replaces=relu.outputs)
    editor.remove([relu])
    assert negated.inputs[0] is new.outputs[0] is editor.graph.outputs[0]
    assert (new.outputs[0].name, new.outputs[0].shape) == ("y", ir.Shape(["batch", 4]))
    assert [node.op_type for node in editor.graph] == ["MatMul", "Sigmoid", "Neg"]


def test_replacing_a_value(editor: Editor) -> None:
    """Outputs of the graph keep their names, whatever makes them; other values keep their own."""
    product, relu, negated = editor.graph
    new = editor.insert(relu, "Sigmoid", relu.inputs).outputs[0]
    editor.replace(relu.outputs[0], new)
    assert (new.name, negated.inputs[0]) == ("y", new)
    other = editor.insert(relu, "Exp", product.inputs[:1])
    other.outputs[0].name = "other"
    editor.replace(product.outputs[0], other.outputs[0])
    assert other.outputs[0].name == "other"
    editor.finish()
    assert [node.op_type for node in editor.graph] == ["Exp", "Sigmoid", "Neg"]
    assert "w" not in editor.graph.initializers


def test_removing_takes_constants_along(editor: Editor) -> None:
    """Those that nothing else reads; a node with readers is not removed."""
    product, relu, _ = editor.graph
    shared = editor.constant("shared", np.array([1], np.int64))
    alone = editor.constant("alone", np.array([2], np.int64))
    nodes = [editor.insert(relu, "Add", [shared, value]) for value in (alone, shared)]
    editor.remove(nodes[:1])
    assert set(editor.graph.initializers) == {"w", "shared"}
    with pytest.raises(ValueError, match="used"):
        editor.remove([product])


def test_equal_names_are_numbered(editor: Editor) -> None:
    """And nodes are sorted, in as much as they have to be."""
    product, _, negated = editor.graph
    late = editor.insert(negated, "Abs", product.inputs[:1], after=True)
    editor.replace(product.outputs[0], late.outputs[0])
    again = editor.insert(late, "Abs", late.outputs, after=True, replaces=[negated.outputs[0]])
    again.name = late.name
    editor.finish()
    assert [node.op_type for node in editor.graph] == ["Abs", "Relu", "Abs"]
    assert len({node.name for node in editor.graph}) == 3


def test_the_products_that_make_the_logits(editor: Editor) -> None:
    """The last product on each way, none that lies before it."""
    product, relu, negated = editor.graph
    assert list(logit_projections(editor.graph)) == [product]
    weight = editor.constant("head", np.eye(4, dtype=np.float32))
    head = editor.insert(negated, "MatMul", [relu.outputs[0], weight], replaces=relu.outputs)
    head.replace_input_with(0, product.outputs[0])
    assert list(logit_projections(editor.graph)) == [head]


def test_a_producer_of_a_type(editor: Editor) -> None:
    """Standard operators only; inputs and constants have none."""
    product, relu, _ = editor.graph
    assert producer_if(relu.inputs[0], "MatMul") is product
    assert producer_if(relu.inputs[0], "Gemm") is None
    assert producer_if(product.inputs[0], "MatMul") is None
    assert producer_if(None, "MatMul") is None
    product.domain = "com.microsoft"
    assert producer_if(relu.inputs[0], "MatMul") is None
