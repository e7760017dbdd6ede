"""The Attention operator of the portable graph, and the two forms of it that a static cache needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import onnx
import onnx_ir as ir

from pipeline.graph.editor import attribute, integers, producer_if

QUERY, KEY, VALUE, MASK, LENGTHS = 0, 1, 2, 3, 6  # inputs: Q, K, V, attn_mask and nonpad_kv_seqlen
OUTPUT_MODE = "qk_matmul_output_mode"
SCORES = 2  # its value for scores as they go into the softmax; they are the fourth output
# attributes that change nothing at this value
NEUTRAL = {OUTPUT_MODE: 0, "left_window_size": -1, "right_window_size": -1}

V = TypeVar("V", str, ir.Value)


@dataclass(frozen=True)
class AttentionForm(Generic[V]):
    """What an Attention node computes; V: str for the names of values, or ir.Value."""

    inputs: tuple[V | None, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: ir.Node) -> "AttentionForm[ir.Value]":
        """The form of a node in an onnx_ir graph."""
        attributes = {name: attr.value for name, attr in node.attributes.items()}
        if Sink.of(node) is not None:
            del attributes[OUTPUT_MODE]
        return AttentionForm(tuple(node.inputs), attributes)

    @classmethod
    def of_proto(cls, node: onnx.NodeProto) -> "AttentionForm[str]":
        """The form of a node in a proto."""
        attributes = {attr.name: onnx.helper.get_attribute_value(attr) for attr in node.attribute}
        return AttentionForm(tuple(name or None for name in node.input), attributes)

    def operand(self, index: int) -> V | None:
        """An input, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def mask(self) -> V | None:
        """[batch or 1, heads or 1, sequence, cache_size], true where a token sees a slot; or numbers that are added to
        the scores."""
        return self.operand(MASK)

    @property
    def lengths(self) -> V | None:
        """[batch], the slots of each row that are keys; new tokens are the last of them."""
        return self.operand(LENGTHS)

    @property
    def is_causal(self) -> bool:
        """Whether a token sees no slot after its own."""
        return bool(self.attributes.get("is_causal", 0))

    @property
    def softcap(self) -> float:
        """Bound of the scores, tanh(score / softcap) * softcap; 0 for none."""
        return float(self.attributes.get("softcap", 0.0))

    def scale(self, head_dim: int) -> float:
        """Factor of the scores."""
        return float(self.attributes.get("scale", 0.0) or head_dim**-0.5)

    @property
    def is_portable(self) -> bool:
        """Whether it has one of the two forms: causal with lengths, or a mask alone."""
        return self.is_causal == (self.lengths is not None) == (self.mask is None)

    @property
    def other_attributes(self) -> dict[str, Any]:
        """Attributes that change the result in a way that no property here states."""
        known = {"is_causal", "scale", "softcap"}
        return {
            name: value
            for name, value in self.attributes.items()
            if name not in known and (name not in NEUTRAL or NEUTRAL[name] != value)
        }

    @property
    def other_inputs(self) -> dict[int, V]:
        """Inputs by index that have no place in a static cache, such as past keys."""
        known = {QUERY, KEY, VALUE, MASK, LENGTHS}
        return {i: value for i, value in enumerate(self.inputs) if value is not None and i not in known}


@dataclass(frozen=True)
class Sink:
    """A sink behind an Attention: out * Sigmoid(ReduceLogSumExp(scores) - sink), as export writes it."""

    scores: ir.Value  # [heads, 1, 1], or the same with one more axis in front
    out: ir.Value  # the attention's result with the sink

    @classmethod
    def of(cls, node: ir.Node) -> "Sink | None":
        """The sink of an Attention, None where it has none or its scores have other readers."""
        plain, scores = node.outputs[0], node.outputs[3] if len(node.outputs) > 3 else None
        total = _only_reader(scores, "ReduceLogSumExp")
        if total is None or attribute(node, OUTPUT_MODE, 0) != SCORES or attribute(total, "keepdims", 1) != 1:
            return None
        if len(total.inputs) < 2 or integers(total.inputs[1]) not in ([3], [-1]):
            return None
        above = _only_reader(total.outputs[0], "Sub")
        share = None if above is None else _only_reader(above.outputs[0], "Sigmoid")
        product = None if share is None else _only_reader(share.outputs[0], "Mul")
        if above is None or share is None or product is None or above.inputs[0] is not total.outputs[0]:
            return None
        sink, factors = above.inputs[1], set(product.inputs)
        if sink is None or factors != {plain, share.outputs[0]} or len(plain.uses()) != 1:
            return None
        return cls(sink, product.outputs[0])

    def per_head(self) -> ir.Value | None:
        """The sinks as [heads], where they have that form before an Unsqueeze."""
        shaped = producer_if(self.scores, "Unsqueeze")
        return None if shaped is None else shaped.inputs[0]


def _only_reader(value: ir.Value | None, op: str) -> ir.Node | None:
    """The one node that reads a value, if it is a standard one of this type."""
    uses = [] if value is None else list(value.uses())
    if value is None or len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.op_type == op and node.domain == "" else None
