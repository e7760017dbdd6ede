"""Recognize a sliding window in a mask, by computing the mask with ONNX Runtime; narrow a cache to the window.

A mask of the contract follows from cache_position and the number of new tokens. Its nodes are run for every position
in the cache, so what is recognized is proven, whatever nodes the mask is made of.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from pipeline.core.tables.engines import CPU
from pipeline.graph.editor import Editor

TOKENS = {"input_ids", "attention_mask", "position_ids"}  # inputs [batch, sequence]
POSITION = "cache_position"
CHUNK = 256  # new tokens
ELEMENTS = 1 << 21  # of a mask, computed at once: its nodes take a few times 16 MB
# Slots of a narrow cache beyond the window. With some, a step seldom has to move the kept tokens; attending to the
# additional ones takes longer than that: a step over 4 heads of 256 and a window of 512 took 196 us with none, 208 with
# 64 and 284 with 512. They would let a session take that many tokens back.
SPARE = 0


def sliding_window(editor: Editor, mask: ir.Value, cache_size: int) -> int | None:
    """The W for which a token at position p sees the slots p - W + 1 to p, and no other, at every position; a mask that
    is only causal has W = cache_size. None for any other mask.

    mask: [batch or 1, heads or 1, sequence, cache_size], bool, or numbers that are added to scores.
    """
    shapes, values = depends_on(mask)
    if not values <= {POSITION} or not shapes | values <= {POSITION, *TOKENS}:
        return None
    inputs = sorted(shapes | values)
    part = ir.Model(ir.convenience.extract(editor.graph, inputs, [str(mask.name)]), ir_version=editor.model.ir_version)
    part.opset_imports.update(editor.model.opset_imports)
    session = onnxruntime.InferenceSession(ir.to_proto(part).SerializeToString(), providers=[CPU])

    def seen(position: npt.NDArray[np.int64], sequence: int) -> npt.NDArray[np.bool_] | None:
        tokens = np.zeros((len(position), sequence), np.int64)
        (found,) = session.run(None, {name: position if name == POSITION else tokens for name in inputs})
        if found.dtype == np.bool_:
            return np.asarray(found)
        known = (found == 0) | (found <= np.finfo(found.dtype).min)
        return found == 0 if known.all() else None

    slots = np.arange(cache_size)
    last = seen(slots[-1:], 1)
    window = 0 if last is None else int(last[0, 0, 0].sum())
    if not window:
        return None
    for position, sequence in _steps(cache_size):
        query = (position[:, None] + np.arange(sequence))[:, None, :, None]
        want = (slots <= query) & (slots > query - window)
        found = seen(position, sequence)
        if found is None or not (found == want).all():
            return None
    return window


def _steps(cache_size: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """(cache_position, sequence) of the steps that are compared: every position as a step of one token, every position
    in chunks of two rows, the first and the last ones together, and a few short chunks."""
    positions = np.arange(cache_size)
    for rows in np.array_split(positions, -(-cache_size * cache_size // ELEMENTS)):
        yield rows, 1
    chunk = max(1, min(CHUNK, cache_size, ELEMENTS // cache_size))
    starts = np.append(positions[: cache_size - chunk : chunk], cache_size - chunk)
    half = -(-len(starts) // 2)
    for pair in zip(starts[:half], starts[::-1], strict=False):
        yield np.array(pair), chunk
    for sequence in (2, 3, 7):
        if sequence <= cache_size:
            yield np.array([0, cache_size - sequence, (cache_size - sequence) // 2]), sequence


def has_one_reader(write: ir.Node, attention: ir.Node) -> bool:
    """Whether the cache that a TensorScatter writes is read by this attention only; others may need other tokens."""
    past, present = write.inputs[0], write.outputs[0]
    assert past is not None
    return {use.node for use in past.uses()} == {write} and {use.node for use in present.uses()} == {attention}


def narrow(past: ir.Value, present: ir.Value, window: int) -> None:
    """Leave a cache [batch, kv_heads, slots, head_dim] the slots for a window."""
    for value in (past, present):
        assert value.shape is not None
        value.shape = ir.Shape([*value.shape[:2], window + SPARE, *value.shape[3:]])


def depends_on(value: ir.Value) -> tuple[set[str], set[str]]:
    """Names of the graph's inputs that a value is computed from: those whose shape is read, those whose numbers are."""
    shapes, values, seen, left = set(), set(), set(), [value]
    while left:
        value = left.pop()
        node = value.producer()
        if node is None and value.const_value is None:
            values.add(str(value.name))
        elif node is not None and node not in seen:
            seen.add(node)
            read = [x for x in node.inputs if x is not None]
            if node.op_type == "Shape" and read[0].is_graph_input():
                shapes.add(str(read[0].name))
            else:
                left += read
    return shapes, values
