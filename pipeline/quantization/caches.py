"""Quantize the cache of a graph to 8 or 4 bits: a scale for each layer, head and channel, from a text."""

import numpy as np
import onnx_ir as ir

from pipeline.core.arrays import Floats
from pipeline.core.errors import Problem, UserError
from pipeline.graph import quantized_cache
from pipeline.graph.editor import Editor

HIGHEST = {8: 127, 4: 7}  # the largest number of so many bits
# Shares of the largest number that become HIGHEST. With 8 bits none of the text's numbers is cut off: that costs more
# than the smaller steps of all others gain (SmolLM2-135M). With 4 bits the few large ones may be.
SHARES = {8: np.linspace(1.0, 1.3, 61).tolist(), 4: np.linspace(0.4, 1.0, 13).tolist()}
# What the error of a first token counts, beside the mean error of all tokens. Attention gives it much weight, and its
# keys and values are nearly the same in all texts. With 8 bits the error of one token of 512 makes half of the KL
# divergence (SmolLM2-135M), and a step that is a few per cent larger avoids most of it. With 4 bits most of its values
# are below half a step, whatever the step is.
FIRST = {8: 1.0, 4: 0.0}


def writes(model: ir.Model, caches: list[str]) -> dict[str, ir.Node]:
    """The TensorScatter into each of these cache inputs."""
    inputs = {str(value.name): value for value in model.graph.inputs}
    found = {}
    for name in caches:
        nodes = [use.node for use in inputs[name].uses()]
        if [node.op_type for node in nodes] != ["TensorScatter"]:
            what = f"{name} is read before new tokens are written, so that it cannot be quantized"
            raise UserError(Problem(what, "cache.dtype", "cache.dtype=auto"))
        found[name] = nodes[0]
    return found


def scales(largest: Floats, sample: Floats, first: Floats, bits: int) -> Floats:
    """fp32 [kv_heads, head_dim] with the least squared error on a sample and on first tokens.

    largest: of all tokens' absolute numbers, [kv_heads, head_dim]; sample: of some of the tokens, [tokens, kv_heads,
    head_dim]; first: of texts' first tokens, the same shape.
    """
    whole = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(HIGHEST[bits])
    best, least = whole, np.full(whole.shape, np.inf)
    for share in SHARES[bits]:
        scale = whole * np.float32(share)
        error = _error(sample, scale, bits)
        if FIRST[bits]:
            error += FIRST[bits] * _error(first, scale, bits)
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    return best


def _error(numbers: Floats, scale: Floats, bits: int) -> Floats:
    """The mean squared error of rounding, [kv_heads, head_dim]."""
    rounded = np.clip(np.rint(numbers / scale), -HIGHEST[bits] - 1, HIGHEST[bits]) * scale
    error: Floats = np.square(rounded - numbers).mean(0, dtype=np.float64)
    return error


def quantize(model: ir.Model, found: dict[str, Floats], bits: int) -> None:
    """Quantize the caches of a model in place; `found`: cache input -> its scales, as `scales` returns them."""
    editor = Editor(model)
    for name, node in writes(model, list(found)).items():
        heads, head_dim = found[name].shape
        if head_dim * bits % 8:
            what = f"{name} has {head_dim} channels for each of {heads} heads: an odd number is not stored in 4 bits"
            raise UserError(Problem(what, "cache.dtype", "cache.dtype=int8"))
        quantized_cache.quantize(editor, node, bits, found[name])
    editor.finish()
