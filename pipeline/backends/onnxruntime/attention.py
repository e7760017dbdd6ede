"""Lower attention for ONNX Runtime: two TensorScatter and an Attention become one GroupQueryAttention.

GroupQueryAttention reads the used slots of the cache only and writes into the cache in place. It accepts the
projections as their products output them, packed or not, and applies the rotary embedding from tables. Operations that
it does not include, such as per-head norms, stay before it as standard nodes. An attention that it does not compute
stays too (pipeline.backends.onnxruntime.used_slots).
A mask becomes a sliding window where it is one, or else a bias on the scores. Padding (`attention_mask`) is neither
written nor attended.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from pipeline.backends.onnxruntime import windows
from pipeline.backends.onnxruntime.used_slots import UsedSlots
from pipeline.core.tables.engines import CPU
from pipeline.graph.attention import AttentionForm, Sink
from pipeline.graph.editor import SWAP, Editor, attribute, dimension, producer_if
from pipeline.graph.quantized_cache import CacheRead

DOMAIN = "com.microsoft"
HEAD_DIM_STEP = 16
PER_CHANNEL = "PER_CHANNEL"


@dataclass(frozen=True)
class GqaInputs:
    """What every GroupQueryAttention of a step reads; 32-bit integers except `total_slots`."""

    new: ir.Value  # [batch], new tokens of each row without padding
    last: ir.Value  # [batch], slot of each row's last new token
    total: ir.Value  # [1], no row uses more slots than this
    total_slots: ir.Value  # the same in 64 bits


class AttentionLowering:
    """Rewrites the Attention nodes of one graph of the contract; holds what they share."""

    def __init__(self, editor: Editor, *, window_cache: bool = False) -> None:
        self.editor = editor
        self.window_cache = window_cache
        self.window_caches: dict[str, int] = {}  # input -> window
        self.tables: dict[str, ir.Value | None] = {}
        self.biases: dict[str, ir.Value] = {}
        self.windows: dict[str, int | None] = {}
        self.used_slots = UsedSlots(editor)
        # With quantized weights, queries are scaled before the kernel: given a scale it packs all keys before it
        # multiplies them by one row, 28 % more time per slot. In fp32, where a step waits for weights, a step of up to
        # 512 slots gains less than 1 %. (Products of 16 bits have other kernels.)
        self.scales_ahead = any(n.outputs[0].dtype == ir.DataType.FLOAT for n in editor.nodes("DequantizeLinear"))

    def lower(self, node: ir.Node) -> None:
        """Rewrite one Attention over the cache; one that the kernel does not compute stays, and reads the used slots
        where it can."""
        form = AttentionForm.of(node)
        if form.is_portable and not form.other_attributes and not form.other_inputs and not self._fuse(node, form):
            self.used_slots.read(node, self.shared.total_slots)

    def _fuse(self, node: ir.Node, form: AttentionForm[ir.Value]) -> bool:
        """Put a GroupQueryAttention in an Attention's place; whether there is one that computes the same."""
        sink = Sink.of(node)
        query, keys, values = node.inputs[:3]
        cached_key, cached_value = CacheRead.of(keys), CacheRead.of(values)
        if query is None or cached_key is None or cached_value is None or cached_key.bits != cached_value.bits:
            return False
        write_key, write_value = cached_key.write, cached_value.write
        key: ir.Value | None = cached_key.new
        value = cached_value.new
        past_key, past_value = write_key.inputs[0], write_value.inputs[0]
        head_dim = dimension(key, 3)
        if head_dim % HEAD_DIM_STEP or head_dim != dimension(value, 3):
            return False  # no kernel
        if _comes_from(form.mask, {write_key, write_value}):
            return False  # it would need the cache that it writes (Doge)
        head_sink = None if sink is None else self._sink(sink)
        if sink is not None and head_sink is None:
            return False
        heads = dimension(query, 1)
        cos, sin, positions, interleaved = None, None, None, 0
        rope_q, rope_k = producer_if(query, "RotaryEmbedding"), producer_if(key, "RotaryEmbedding")
        if rope_q and rope_k and rope_q.inputs[1:] == rope_k.inputs[1:] and len(rope_q.inputs) == 3:
            cos, sin = (self._table(angle, dimension(past_key, 2)) for angle in rope_q.inputs[1:])
        if cos and sin and rope_q and rope_k:
            query, key, positions = rope_q.inputs[0], rope_k.inputs[0], self.editor.inputs["position_ids"]
            interleaved = attribute(rope_q, "interleaved", 0)
        else:
            cos = sin = None
        shared = self.shared
        scale = form.scale(head_dim)
        window = self._window(form.mask, dimension(past_key, 2))
        more: dict[str, Any] = {}
        if cached_key.scales is not None:
            more |= {"k_quant_type": PER_CHANNEL, "v_quant_type": PER_CHANNEL, "kv_cache_bit_width": cached_key.bits}
        if window is not None and window < dimension(past_key, 2):
            more["local_window_size"] = window
            if self._is_narrow(window, write_key, write_value, node):
                more["sliding_window_cache"] = 1
        rows, *others = self._projections(query, key, value, node)
        if self.scales_ahead:
            packed = [1.0] * (2 * dimension(past_key, 1)) if others[0] is None else []
            factors = np.repeat(np.array([scale] * heads + packed, np.float32), head_dim)
            factor = self.editor.constant(f"lowered.scale.{scale}.{heads}.{len(factors)}", factors)
            rows, scale = self.editor.insert(node, "Mul", [rows, factor]).outputs[0], 1.0
        fused = self.editor.insert(
            node,
            "GroupQueryAttention",
            [
                *(rows, *others, past_key, past_value),
                *(shared.last, shared.total, cos, sin, positions),
                None if form.mask is None or window is not None else self._bias(form.mask, node),
                head_sink,
                *(self._scales(cached.scales) for cached in (cached_key, cached_value)),
                *[None] * 2,  # norms: not on the CPU
                shared.new,
            ],
            domain=DOMAIN,
            like=(None, cached_key.stored, cached_value.stored),
            num_heads=heads,
            kv_num_heads=dimension(past_key, 1),
            scale=scale,
            softcap=form.softcap,
            do_rotary=int(cos is not None),
            rotary_interleaved=interleaved,
            **more,
        )
        if window is not None and "sliding_window_cache" in more:
            for past, present in ((past_key, fused.outputs[1]), (past_value, fused.outputs[2])):
                assert past is not None
                windows.narrow(past, present, window)
                self.window_caches[str(past.name)] = window
        self.editor.replace(write_key.outputs[0], fused.outputs[1])
        self.editor.replace(write_value.outputs[0], fused.outputs[2])
        self._rewire_consumers(node, node.outputs[0] if sink is None else sink.out, fused.outputs[0], heads)
        return True

    @cached_property
    def shared(self) -> GqaInputs:
        """Computed once, before all other nodes."""
        editor, first = self.editor, self.editor.first
        tokens, position = editor.inputs["attention_mask"], editor.inputs["cache_position"]
        one = editor.constant("lowered.one", np.array([1], np.int64))

        def out(op: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            return editor.insert(first, op, inputs, **attributes).outputs[0]  # type: ignore[arg-type]  # ours are ints

        counts = out("ReduceSum", tokens, one, keepdims=0)
        last = out("Sub", out("Add", position, counts), one)
        sequence = out("Shape", tokens, start=1, end=2)
        total = out("Add", out("ReduceMax", position, keepdims=1), sequence)
        small = int(ir.DataType.INT32)
        new, last_slot, total_small = (out("Cast", value, to=small) for value in (counts, last, total))
        return GqaInputs(new, last_slot, total_small, total)

    def _table(self, angle: ir.Value | None, cache_size: int) -> ir.Value | None:
        """cos or sin [batch, sequence, n] as a table [cache_size, n], if it depends on position_ids alone.

        ONNX Runtime computes it with the graph's own nodes, so the numbers are those that the nodes would give.
        """
        assert angle is not None
        name = str(angle.name)
        if name not in self.tables:
            self.tables[name] = None
            if windows.depends_on(angle) == (set(), {"position_ids"}):
                part = ir.Model(
                    ir.convenience.extract(self.editor.graph, ["position_ids"], [name]),
                    ir_version=self.editor.model.ir_version,
                )
                session = onnxruntime.InferenceSession(ir.to_proto(part).SerializeToString(), providers=[CPU])
                (rows,) = session.run(None, {"position_ids": np.arange(cache_size)[None]})
                self.tables[name] = self.editor.constant(f"{name}.table", rows[0])
        return self.tables[name]

    def _projections(
        self, query: ir.Value | None, key: ir.Value | None, value: ir.Value | None, node: ir.Node
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """The three in flat form, or the flat form of the one that they were split from, and None twice."""
        whole = _split(query, key, value)
        if whole is not None:
            return self._flat(whole, node), None, None
        flat_query, flat_key, flat_value = (self._flat(part, node) for part in (query, key, value))
        whole = _split(flat_query, flat_key, flat_value)
        return (flat_query, flat_key, flat_value) if whole is None else (whole, None, None)

    def _flat(self, value: ir.Value | None, node: ir.Node) -> ir.Value:
        """[batch, heads, sequence, head_dim] as [batch, sequence, heads * head_dim], which it often was before."""
        assert value is not None
        swap = producer_if(value, "Transpose")
        if swap is not None and list(attribute(swap, "perm", [])) == SWAP:
            rows = swap.inputs[0]
            split = producer_if(rows, "Reshape")
            before = split.inputs[0] if split is not None else None
            flat = [None, None, dimension(value, 1) * dimension(value, 3)]
            if before is not None and before.shape is not None and [None, None, *before.shape[2:]] == flat:
                return before
        else:
            rows = self.editor.insert(node, "Transpose", [value], perm=SWAP).outputs[0]
        shape = self.editor.constant("lowered.flat", np.array([0, 0, -1], np.int64))
        return self.editor.insert(node, "Reshape", [rows, shape]).outputs[0]

    def _is_narrow(self, window: int, write_key: ir.Node, write_value: ir.Node, node: ir.Node) -> bool:
        """Whether the caches of this attention keep the window only."""
        fewer = window + windows.SPARE < dimension(write_key.inputs[0], 2)
        return self.window_cache and fewer and all(windows.has_one_reader(w, node) for w in (write_key, write_value))

    def _window(self, mask: ir.Value | None, cache_size: int) -> int | None:
        """See sliding_window; None for no mask."""
        if mask is None:
            return None
        if mask.name not in self.windows:
            self.windows[str(mask.name)] = windows.sliding_window(self.editor, mask, cache_size)
        return self.windows[str(mask.name)]

    def _bias(self, mask: ir.Value, node: ir.Node) -> ir.Value:
        """A mask [batch, heads or 1, sequence, cache_size] as a bias for the used slots; a bool one as 0 or the lowest
        number."""
        name = str(mask.name)
        if name not in self.biases:
            query = node.inputs[0]
            assert query is not None
            assert query.dtype is not None
            dtype = query.dtype.numpy()
            start = self.editor.constant("lowered.zero", np.array([0], np.int64))
            axis = self.editor.constant("lowered.slots", np.array([3], np.int64))
            used = self.editor.insert(node, "Slice", [mask, start, self.shared.total_slots, axis]).outputs[0]
            if mask.dtype != ir.DataType.BOOL:
                self.biases[name] = used
                return used
            seen = self.editor.constant(f"lowered.seen.{dtype}", np.array(0, dtype))
            hidden = self.editor.constant(f"lowered.hidden.{dtype}", np.array(np.finfo(dtype).min, dtype))
            self.biases[name] = self.editor.insert(node, "Where", [used, seen, hidden]).outputs[0]
        return self.biases[name]

    def _sink(self, sink: Sink) -> ir.Value | None:
        """The sinks as [heads]; None where they are neither a constant nor were [heads] before."""
        if sink.scores.const_value is None:
            return sink.per_head()
        return self.editor.constant(f"{sink.scores.name}.per_head", sink.scores.const_value.numpy().reshape(-1))

    def _scales(self, scales: ir.Value | None) -> ir.Value | None:
        """The scales [kv_heads, 1, head_dim] of a quantized cache as the kernel takes them, [kv_heads * head_dim]."""
        if scales is None or scales.const_value is None:
            return None
        return self.editor.constant(f"{scales.name}.flat", scales.const_value.numpy().reshape(-1))

    def _rewire_consumers(self, node: ir.Node, out: ir.Value, flat: ir.Value, heads: int) -> None:
        """Let the readers of an attention's result read `flat` [batch, sequence, heads * head_dim], usually for a
        Reshape."""
        swaps = [user.node for user in out.uses()]
        if all(n.op_type == "Transpose" and list(attribute(n, "perm", [])) == SWAP for n in swaps):
            joins = [user.node for n in swaps for user in n.outputs[0].uses()]
            if all(n.op_type == "Reshape" and _rank(n.outputs[0]) == 3 for n in joins):
                for join in joins:
                    self.editor.replace(join.outputs[0], flat)
                return
        shape = self.editor.constant(f"lowered.heads.{heads}", np.array([0, 0, heads, -1], np.int64))
        rows = self.editor.insert(node, "Reshape", [flat, shape]).outputs[0]
        swapped = self.editor.insert(node, "Transpose", [rows], perm=SWAP, like=[out])
        self.editor.replace(out, swapped.outputs[0])


def _split(*parts: ir.Value | None) -> ir.Value | None:
    """What these are all the parts of, in order."""
    split = producer_if(parts[0], "Split")
    return split.inputs[0] if split is not None and list(parts) == list(split.outputs) else None


def _comes_from(value: ir.Value | None, nodes: set[ir.Node]) -> bool:
    """Whether a value is computed from what one of these nodes makes."""
    seen: set[ir.Node | None] = set()
    waiting = [value]
    while waiting:
        maker = None if (one := waiting.pop()) is None else one.producer()
        if maker is not None and maker not in seen:
            seen.add(maker)
            waiting += maker.inputs
    return bool(seen & nodes)


def _rank(value: ir.Value) -> int | None:
    return None if value.shape is None else len(value.shape)
