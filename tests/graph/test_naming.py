"""Names of nodes, weights and axes: modules of the model, and numbers where there are several."""

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from pipeline.graph.naming import (
    MODULE,
    exported_modules,
    inherited_modules,
    keep_module_names,
    module_name,
    name_nodes,
    numbered,
    rename_axes,
)


def model(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str]) -> onnx.ModelProto:
    """A graph of these nodes; its inputs are [s0, 4], its outputs [s0, s1]."""
    ends = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in names]
        for names, shape in ((inputs, ["s0", 4]), (outputs, ["s0", "s1"]))
    ]
    return helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=[helper.make_opsetid("", 24)])


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("model.model.layers.0.mlp", "model.layers.0.mlp"),
        ("model.lm_head", "lm_head"),
        ("", "decoder"),
        ("model", "decoder"),
    ],
)
def test_modules_of_the_wrapper_are_those_of_the_model(scope: str, name: str) -> None:
    """The wrapper holds the model as `model`; what it computes itself is the decoder's."""
    assert module_name(scope) == name


def test_the_first_of_equal_names_stays() -> None:
    """The others are counted."""
    assert list(numbered(["a", "b", "a", "a", "b"])) == ["a", "b", "a_1", "a_2", "b_1"]


def test_axes_are_renamed_everywhere() -> None:
    """On inputs, outputs and values between; a symbol without a new name loses its own."""
    graph = ir.from_proto(model([helper.make_node("Abs", ["x"], ["y"])], ["x"], ["y"]))
    rename_axes(graph, {"s0": "batch"})
    assert graph.graph.inputs[0].shape == ir.Shape(["batch", 4])
    assert graph.graph.outputs[0].shape == ir.Shape(["batch", None])


def test_the_exporters_metadata_become_modules() -> None:
    """Scopes become one module, everything else is dropped, and weights lose the wrapper's prefix."""
    node = helper.make_node("Add", ["x", "model.lm_head.bias"], ["y"])
    proto = model([node], ["x"], ["y"])
    proto.graph.initializer.append(helper.make_tensor("model.lm_head.bias", onnx.TensorProto.FLOAT, [4], [0.0] * 4))
    graph = ir.from_proto(proto)
    graph.graph[0].metadata_props.update(
        {"pkg.torch.onnx.name_scopes": "['', 'model', 'model.lm_head', 'add']", "pkg.torch.onnx.stack_trace": "x.py"}
    )
    keep_module_names(graph)
    assert dict(graph.graph[0].metadata_props) == {MODULE: "lm_head"}
    assert list(graph.graph.initializers) == ["lm_head.bias"]
    assert exported_modules(graph) == ["lm_head"]


def test_nodes_inherit_modules_by_outputs_then_inputs() -> None:
    """A fused node has an output of one that it replaces; one in between takes the module of what it reads; a node
    that shares no value with the graph before is the decoder's."""
    before = model(
        [
            helper.make_node("Mul", ["x", "x"], ["a"], name="layers.0.norm.Mul"),
            helper.make_node("Add", ["a", "x"], ["y"], name="layers.0.mlp.Add"),
        ],
        ["x"],
        ["y"],
    )
    after = model(
        [
            helper.make_node("Shape", ["x"], ["new"]),
            helper.make_node("Abs", ["a"], ["between"]),
            helper.make_node("Neg", ["between"], ["further"]),
            helper.make_node("Add", ["further", "new"], ["y"]),
        ],
        ["x", "a"],
        ["y"],
    )
    graph = ir.from_proto(after)
    modules = inherited_modules(before, graph)
    assert modules == ["decoder", "layers.0.norm", "layers.0.norm", "layers.0.mlp"]
    name_nodes(graph, modules)
    names = ["decoder.Shape", "layers.0.norm.Abs", "layers.0.norm.Neg", "layers.0.mlp.Add"]
    assert [node.name for node in graph.graph] == names


def test_nodes_of_one_module_and_operator_are_numbered() -> None:
    """So that every name is one node's; a list of another length is an error."""
    graph = ir.from_proto(
        model([helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Abs", ["a"], ["y"])], ["x"], ["y"])
    )
    name_nodes(graph, ["norm", "norm"])
    assert [node.name for node in graph.graph] == ["norm.Abs", "norm.Abs_1"]
    with pytest.raises(ValueError, match="argument"):
        name_nodes(graph, ["norm"])
