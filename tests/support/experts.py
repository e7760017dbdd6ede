"""Small random experts: weights, a router's choice, and their graph."""

from dataclasses import asdict
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import NameFixPass

from pipeline.graph.experts import SCHEMA, write_experts
from pipeline.model.operators import UNGATED, Activation, experts

EXPERTS, CHOSEN, HIDDEN, INNER = 6, 2, 16, 32


class Mixture(torch.nn.Module):
    """The operator over weights of its own."""

    def __init__(self, activation: Activation, *, transposed: bool = False, bias: bool = False) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        first = INNER if activation.layout == UNGATED else 2 * INNER
        for name, sizes in {"up": (first, HIDDEN), "down": (HIDDEN, INNER)}.items():
            weight = torch.randn(EXPERTS, *(sizes[::-1] if transposed else sizes), generator=draw)
            self.register_parameter(name, torch.nn.Parameter(weight))
            vector = torch.nn.Parameter(torch.randn(EXPERTS, sizes[0], generator=draw)) if bias else None
            self.register_parameter(f"{name}_bias", vector)
        self.activation, self.transposed = activation, transposed

    def forward(self, hidden: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        form: Any = self.activation
        return experts(
            hidden,
            indices,
            weights,
            self.up,
            self.down,
            self.up_bias,
            self.down_bias,
            self.transposed,
            form.layout,
            form.function,
            form.alpha,
            form.limit,
            form.limit_after,
            form.shift,
        )


def choice(tokens: int, seed: int = 0, of: int = EXPERTS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, the experts that each goes to, among the first `of`, and their weights, which do not add up to 1."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, HIDDEN, generator=draw)
    indices = torch.stack([torch.randperm(of, generator=draw)[:CHOSEN] for _ in range(tokens)])
    return hidden, indices, torch.rand(tokens, CHOSEN, generator=draw)


def graph_of(mixture: Mixture, layers: int = 1, router: torch.Tensor | None = None) -> ir.Model:
    """Its graph in standard operators, for any number of tokens; layers: how often it stands in a row.

    router: [hidden, experts], computes the choice and its weights, which are inputs otherwise.
    """
    floats, sizes = ir.TensorType(ir.DataType.FLOAT), (EXPERTS, CHOSEN)
    hidden, indices, weights = (
        ir.Value(name="hidden", shape=ir.Shape([None, HIDDEN]), type=floats),
        ir.Value(name="indices", shape=ir.Shape([None, sizes[1]]), type=ir.TensorType(ir.DataType.INT64)),
        ir.Value(name="weights", shape=ir.Shape([None, sizes[1]]), type=floats),
    )
    stored: dict[str, ir.Value | None] = dict.fromkeys(("up", "down", "up_bias", "down_bias"))
    for name, parameter in mixture.named_parameters():
        tensor = ir.tensor(parameter.detach().numpy(), name=name)
        stored[name] = ir.Value(name=name, shape=ir.Shape(parameter.shape), type=floats, const_value=tensor)
    options = asdict(mixture.activation) | {"transposed": mixture.transposed}
    attributes = {name: int(value) if isinstance(value, bool) else value for name, value in options.items()}
    inputs, nodes = [hidden, indices, weights], []
    if router is not None:
        tensors = {"router": router.numpy(), "chosen": np.array([CHOSEN])}
        stored |= {name: ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in tensors.items()}
        product = ir.node("MatMul", [hidden, stored["router"]])
        softmax = ir.node("Softmax", product.outputs)
        top = ir.node("TopK", [softmax.outputs[0], stored["chosen"]], num_outputs=2)
        for new, old in zip(top.outputs, (weights, indices), strict=True):
            new.shape, new.type, new.name = old.shape, old.type, old.name
        weights, indices = top.outputs
        inputs, nodes = [hidden], [product, softmax, top]
    for layer in range(layers):
        source = nodes[-1].outputs[0] if layer else hidden
        given = [source, indices, weights, *(stored[name] for name in ("up", "down", "up_bias", "down_bias"))]
        node = ir.node(
            SCHEMA.name, given, attributes=attributes, domain=SCHEMA.domain, name=f"layers.{layer}.experts.Experts"
        )
        node.outputs[0].shape, node.outputs[0].type, node.outputs[0].name = hidden.shape, floats, f"out{layer}"
        nodes.append(node)
    known = [value for value in stored.values() if value is not None]
    opsets = {"": 24, SCHEMA.domain: 1}
    graph = ir.Graph(
        inputs,
        nodes[-1].outputs,
        nodes=nodes,
        initializers=known,
        opset_imports=opsets,
        name="experts",
    )
    model = ir.Model(graph, ir_version=11)
    write_experts(model)
    NameFixPass()(model)
    return model
