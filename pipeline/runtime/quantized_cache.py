"""Keys and values as a quantized cache stores them, and back (pipeline.graph.quantized_cache says how)."""

import numpy as np

from pipeline.core.arrays import Array, Floats
from pipeline.core.contract import GraphContract, Tensor


def stored(contract: GraphContract, cache: Tensor, numbers: Floats) -> Array:
    """Keys or values [..., kv_heads, slots, head_dim] as the contract's cache `cache` stores them."""
    if cache.name not in contract.scales:
        return numbers.astype(cache.dtype, copy=False)
    divided = np.rint(numbers / _scales(contract, cache))
    if cache.dtype == "int8":
        small: Array = np.clip(divided, -128, 127).astype(np.int8)
        return small
    whole = (np.clip(divided, -8, 7) + 8).astype(np.uint8)
    packed: Array = whole[..., ::2] | whole[..., 1::2] << 4
    return packed


def numbers(contract: GraphContract, cache: Tensor, held: Array) -> Floats:
    """What the contract's cache `cache` holds [..., kv_heads, slots, head_dim or half of it], as numbers in fp32."""
    if cache.name not in contract.scales:
        return held.astype(np.float32, copy=False)
    if cache.dtype != "int8":
        halves = held.astype(np.uint8, copy=False)
        pairs = np.stack([halves & 15, halves >> 4], -1).astype(np.int8) - 8
        held = pairs.reshape(*held.shape[:-1], 2 * held.shape[-1])
    found: Floats = held.astype(np.float32) * _scales(contract, cache)
    return found


def _scales(contract: GraphContract, cache: Tensor) -> Floats:
    return np.array(contract.scales[cache.name], np.float32)[:, None]
