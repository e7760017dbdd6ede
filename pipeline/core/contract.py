"""The graph contract of one model: its inputs and outputs by name, type and shape. The interface between stages.

The shapes and their meaning are those of the table in docs/contract.md. A dimension is a number or the name of an axis.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipeline.core.tables.dtypes import COMPUTE

LOGITS = "logits"
# the parts of a layer that hold a token in each slot, the last of them an indexer's keys; all others are states
CACHED = ("key", "value", "indexer")
SHIFT, REPLACE = "shift", "replace"
# a layer's state -> its rule of update: a convolution's last inputs move on by the row's new tokens, and a recurrence's
# state is computed anew from the old one
RULES = {"conv": SHIFT, "recurrent": REPLACE}
STATE_TYPE = "float32"  # of a recurrence, in which errors add up
TOTAL = "total_sequence"  # the axis of a client's attention_mask: tokens in the cache and new ones
CACHE_TYPES = {8: "int8", 4: "uint8"}  # bits of a quantized cache's numbers -> the type that holds them


@dataclass(frozen=True)
class Tensor:
    """One input or output; a name in `shape` is a symbolic axis."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def sized(self, **axes: int) -> tuple[int, ...]:
        """The shape with numbers in place of axes: `tensor.sized(batch=2, sequence=1)`."""
        return tuple(axes[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True)
class GraphContract:
    """Inputs, outputs, which output shares its buffer with which input, and the largest size of each axis."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    aliases: dict[str, str]  # present.* -> past_key_values.*, present_state.* -> past_state.*
    axes: dict[str, int]  # name -> largest size; the smallest is 1
    cache_size: int
    limits: tuple[int, ...] = ()  # token counts at which the model behaves differently, such as sliding windows
    windows: dict[str, int] = field(default_factory=dict)  # cache input -> its window, where it keeps no other tokens
    unused: tuple[str, ...] = ()  # inputs that the model does not read: position_ids, where slots stand for positions
    # cache input of 8 bits (int8) or 4 (uint8, two numbers in each) -> scales [kv_heads][head_dim] of its numbers
    scales: dict[str, list[list[float]]] = field(default_factory=dict)
    rules: dict[str, str] = field(default_factory=dict)  # state input -> its rule of update, a value of RULES

    @property
    def caches(self) -> tuple[Tensor, ...]:
        """The inputs of keys and values, key before value, layer by layer; behind them an indexer's keys."""
        return tuple(t for t in self.inputs if t.name in set(self.aliases.values()) and t.name not in self.rules)

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The inputs of other states, which have one size for texts of all lengths, layer by layer."""
        return tuple(t for t in self.inputs if t.name in self.rules)

    @property
    def compute(self) -> str:
        """The type that the model computes in: that of its logits."""
        return self.logits.dtype

    @property
    def logits(self) -> Tensor:
        """The logits among the outputs; their last dimension is the vocabulary."""
        return next(t for t in self.outputs if t.name == LOGITS)

    @property
    def is_for_clients(self) -> bool:
        """Whether it is the interface that `for_clients` makes."""
        return all(tensor.name != "cache_position" for tensor in self.inputs)

    def for_clients(self) -> "GraphContract":
        """The same model with the inputs that onnxruntime-genai gives: attention_mask [batch, total_sequence], which
        has ones for a row's tokens in the cache and for its new ones, and no cache_position: that is the first of
        position_ids."""
        inputs = tuple(
            replace(tensor, shape=("batch", TOTAL)) if tensor.name == "attention_mask" else tensor
            for tensor in self.inputs
            if tensor.name != "cache_position"
        )
        return replace(self, inputs=inputs, unused=tuple(name for name in self.unused if name != "position_ids"))

    def narrowed(self, windows: Mapping[str, int], slots: Mapping[str, int]) -> "GraphContract":
        """The contract of an engine whose caches `windows` have only so many `slots`, by cache input."""
        past = {new: old for new, old in self.aliases.items() if old in windows} | {name: name for name in windows}

        def resized(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(
                replace(t, shape=(*t.shape[:2], slots[past[t.name]], *t.shape[3:])) if t.name in past else t
                for t in tensors
            )

        return replace(self, inputs=resized(self.inputs), outputs=resized(self.outputs), windows=dict(windows))

    def quantized(self, bits: int, scales: Mapping[str, list[list[float]]]) -> "GraphContract":
        """The contract with caches of 8 or 4 bits; `scales` by cache input, [kv_heads][head_dim]."""
        caches = {*self.aliases, *self.aliases.values()}

        def stored(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(
                Tensor(t.name, CACHE_TYPES[bits], (*t.shape[:3], int(t.shape[3]) * bits // 8))
                if t.name in caches
                else t
                for t in tensors
            )

        return replace(self, inputs=stored(self.inputs), outputs=stored(self.outputs), scales=dict(scales))

    def dropped(self, cache: Tensor, tokens: int) -> int:
        """How many of a row's first tokens a cache no longer holds when the row has `tokens`. Slot i then holds token
        dropped + i. A cache that is full drops as many as leave window - 1 tokens and the new one."""
        if cache.name not in self.windows:
            return 0
        slots = int(cache.shape[2])
        at_once = slots - self.windows[cache.name] + 1
        return at_once * max(0, -(-(tokens - slots) // at_once))

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "GraphContract":
        """Read a file that `save` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, raw: dict) -> "GraphContract":  # type: ignore[type-arg]  # parsed JSON
        """Make a contract of the parsed JSON that `save` writes."""

        def tensors(rows: list[dict]) -> tuple[Tensor, ...]:  # type: ignore[type-arg]  # parsed JSON
            return tuple(Tensor(r["name"], r["dtype"], tuple(r["shape"])) for r in rows)

        limits = tuple(raw.get("limits", ()))
        unused = tuple(raw.get("unused", ()))
        windows = dict(raw.get("windows", {}))
        inputs, outputs = tensors(raw["inputs"]), tensors(raw["outputs"])
        scales, rules = dict(raw.get("scales", {})), dict(raw.get("rules", {}))
        shared = raw["aliases"], raw["axes"], raw["cache_size"]
        return cls(inputs, outputs, *shared, limits, windows, unused, scales, rules)


def contract_for(
    layers: Sequence[Mapping[str, tuple[int, ...]]],
    vocab_size: int,
    compute: str,
    logits: str,
    axes: dict[str, int],
    limits: tuple[int, ...] = (),
    unused: tuple[str, ...] = (),
    cache_size: int | None = None,
) -> GraphContract:
    """Make the contract of a decoder that keeps these tensors between steps.

    layers: per layer the shape of each part that it keeps, without batch: those of CACHED, (kv_heads, cache_size,
    head_dim), and the states of RULES, with a number behind the name where a layer has several; compute: fp32, fp16 or
    bf16; logits: "last" or "all"; axes: the largest batch and sequence; limits: positions.limits; unused: inputs that
    the model does not read; cache_size: slots of a text, those of the keys where it is left out.
    """
    dtype = COMPUTE[compute].name
    tokens = ("batch", "sequence")
    past, present, rules = [], [], {}
    for index, layer in enumerate(layers):
        for part, shape in layer.items():
            rule = None if part in CACHED else RULES[part.rstrip("0123456789")]
            rounded = STATE_TYPE if rule == REPLACE else dtype
            old, new = ("past_key_values", "present") if part in CACHED else ("past_state", "present_state")
            past.append(Tensor(f"{old}.{index}.{part}", rounded, ("batch", *shape)))
            present.append(replace(past[-1], name=f"{new}.{index}.{part}"))
            if rule is not None:
                rules[past[-1].name] = rule
    return GraphContract(
        inputs=(
            Tensor("input_ids", "int64", tokens),
            Tensor("attention_mask", "int64", tokens),
            Tensor("position_ids", "int64", tokens),
            Tensor("cache_position", "int64", ("batch",)),
            *past,
        ),
        outputs=(Tensor(LOGITS, dtype, ("batch", 1 if logits == "last" else "sequence", vocab_size)), *present),
        aliases={new.name: old.name for new, old in zip(present, past, strict=True)},
        axes=axes,
        cache_size=cache_size or next(layer["key"][1] for layer in layers if "key" in layer),
        limits=limits,
        unused=unused,
        rules=rules,
    )
