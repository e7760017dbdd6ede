"""Query, key and value projections become one product, gate and up another, and nothing else does."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from pipeline.graph.naming import MODULE
from pipeline.graph.pack import pack_projections

SIZES = {"q": 8, "k": 4, "v": 4}  # 2 heads of 4 over 1 key and value head
LAYER = "layers.0.self_attn"


def attention(biased: str, norm: bool = False, sides: int = 3) -> ir.Model:
    """An attention of 3 projections, those in `biased` with a bias; `norm`: with a Tanh between each and its heads;
    behind it `sides` layers of its output."""
    rng = np.random.default_rng(0)
    shape = ir.Shape(["batch", "sequence", 8])
    source = ir.Value(name="x", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([source], [], nodes=[], opset_imports={"": 24}, name="attention")

    def add(module: str, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        node = ir.node(op, inputs, attributes, metadata_props={MODULE: module})
        graph.append(node)
        return node.outputs[0]

    def weight(name: str, *shape: int) -> ir.Value:
        return constant(name, rng.standard_normal(shape, np.float32))

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        graph.register_initializer(value)
        return value

    def reshaped(name: str, value: ir.Value, *shape: int) -> ir.Value:
        out = add(LAYER, "Reshape", value, constant(name, np.array(shape)))
        out.shape = ir.Shape(["batch", "sequence", *shape[2:]])
        return out

    heads = []
    for part, size in SIZES.items():
        module = f"{LAYER}.{part}_proj"
        out = add(module, "MatMul", source, weight(f"{module}.weight", 8, size))
        if part in biased:
            out = add(module, "Add", out, weight(f"{module}.bias", size))
        if norm:
            out = add(LAYER, "Tanh", out)
        heads.append(add(LAYER, "Transpose", reshaped(f"{part}_heads", out, 0, 0, size // 4, 4), perm=[0, 2, 1, 3]))
    out = add(LAYER, "Attention", *heads)
    out = reshaped("together", add(LAYER, "Transpose", out, perm=[0, 2, 1, 3]), 0, 0, 8)
    out = add(f"{LAYER}.o_proj", "MatMul", out, weight(f"{LAYER}.o_proj.weight", 8, 8))
    layers = [f"layers.0.mlp.{part}" for part in "abc"[:sides]]
    products = [add(part, "MatMul", out, weight(f"{part}.weight", 8, 8)) for part in layers]
    graph.outputs.append(add("layers.0.mlp", "Sum", *products))
    return ir.Model(graph, ir_version=13)


def run(model: ir.Model) -> np.ndarray:
    """Its output in onnx's reference evaluator."""
    x = np.random.default_rng(1).standard_normal((2, 3, 8), np.float32)
    (out,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"x": x})
    return np.asarray(out)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("biased", ["", "qkv"])
def test_three_projections_become_one(biased: str, norm: bool) -> None:
    """With and without biases, with and without something before the heads: one product, one Split, the same result."""
    model = attention(biased, norm)
    want, before = run(model), len(model.graph)
    pack_projections(model)
    packed = f"{LAYER}.qkv_proj"
    nodes = ["MatMul", *(["Add"] if biased else []), *([] if norm else ["Reshape", "Transpose"]), "Split"]
    assert [n.op_type for n in model.graph if n.metadata_props[MODULE] == packed] == nodes
    assert before - len(model.graph) == (1 if norm else 5) + (2 if biased else 0)
    shapes = {name: list(value.shape) for name, value in model.graph.initializers.items() if name.startswith(packed)}
    assert shapes[f"{packed}.weight"] == [8, 16]
    assert shapes.get(f"{packed}.bias") == ([16] if biased else None)
    assert not [name for name in model.graph.initializers if "k_proj" in name]
    np.testing.assert_allclose(run(model), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readers", [2, 3])
def test_gate_and_up_become_one(readers: int) -> None:
    """Two layers of one input that are no attention's: one product and a Split. Three are something else."""
    model = attention("", sides=readers)
    want = run(model)
    pack_projections(model)
    name = "layers.0.mlp.gate_up_proj"
    packed = [n.op_type for n in model.graph if n.metadata_props[MODULE] == name]
    assert packed == (["MatMul", "Split"] if readers == 2 else [])
    assert (f"{name}.weight" in model.graph.initializers) == (readers == 2)
    np.testing.assert_allclose(run(model), want, rtol=1e-4, atol=1e-5)


def test_what_differs_stays() -> None:
    """Projections of which only some have a bias are left alone."""
    model = attention("q")
    before = [node.op_type for node in model.graph]
    pack_projections(model)
    assert [node.op_type for node in model.graph] == before
