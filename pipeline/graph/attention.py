"""The Attention operator of the portable graph, and the two forms of it that a static cache needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import onnx
import onnx_ir as ir

QUERY, KEY, VALUE, MASK, LENGTHS = 0, 1, 2, 3, 6  # inputs: Q, K, V, attn_mask and nonpad_kv_seqlen
# attributes that change nothing at this value
NEUTRAL = {"qk_matmul_output_mode": 0, "left_window_size": -1, "right_window_size": -1}

V = TypeVar("V", str, ir.Value)


@dataclass(frozen=True)
class AttentionForm(Generic[V]):
    """What an Attention node computes; V: str for the names of values, or ir.Value."""

    inputs: tuple[V | None, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: ir.Node) -> "AttentionForm[ir.Value]":
        """The form of a node in an onnx_ir graph."""
        return AttentionForm(tuple(node.inputs), {name: attr.value for name, attr in node.attributes.items()})

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
