"""Quantized checkpoints for tests, packed as the libraries' own sources do it, word by word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Layer = dict[str, Tensor]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # AutoAWQ, awq/modules/linear/gemm.py, WQLinear_GEMM.from_linear: order_map


def grid(
    shape: tuple[int, int], groups: Tensor, bits: int, *, symmetric: bool, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integers [N, K], fp16 scales and zero points [N, G], and the weight that they are, fp32 [N, K]."""
    random = torch.Generator().manual_seed(seed)
    n, count = shape[0], int(groups.max()) + 1
    q = torch.randint(2**bits, shape, generator=random)
    zero = torch.full((n, count), 2 ** (bits - 1))
    if not symmetric:
        zero = torch.randint(1, 2**bits, (n, count), generator=random)
    scale = (torch.rand((n, count), generator=random) * 0.02 + 0.01).half()
    return q, scale, zero, scale.float()[:, groups] * (q - zero[:, groups]).float()


def words(fields: Tensor, bits: int, order: list[int] | None = None) -> Tensor:
    """Integers [rows, columns] in words of 32 bits [rows, columns * bits / 32]; field i of a word is column order[i]
    of its columns."""
    count = 32 // bits
    packed = torch.zeros((len(fields), fields.shape[1] // count), dtype=torch.int64)
    for column in range(packed.shape[1]):
        for i in range(count):
            packed[:, column] |= fields[:, column * count + (order or range(count))[i]] << i * bits
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def gptq(
    shape: tuple[int, int],
    *,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = False,
    sorted_inputs: bool = False,
    older: bool = True,
    seed: int = 0,
    order: int = 0,
) -> tuple[Layer, Tensor]:
    """A layer of GPTQModel's BaseQuantLinear.pack, and its weight [N, K]; older: checkpoint_format gptq, whose zero
    points are 1 less. order: seed of the order of sorted inputs."""
    k = shape[1]
    groups = torch.arange(k) // (k if group == -1 else group)
    if sorted_inputs:
        groups = groups[torch.randperm(k, generator=torch.Generator().manual_seed(order))]
    q, scale, zero, weight = grid(shape, groups, bits, symmetric=symmetric, seed=seed)
    return {
        "qweight": words(q, bits).T.contiguous(),  # words along the inputs, and stored [K / 8, N]
        "qzeros": words(zero.T - int(older), bits),
        "scales": scale.T.contiguous(),
        "g_idx": groups.int(),
    }, weight


def awq(shape: tuple[int, int], *, group: int = 32, symmetric: bool = False, seed: int = 0) -> tuple[Layer, Tensor]:
    """A layer of AutoAWQ's WQLinear_GEMM.from_linear, and its weight [N, K]."""
    k = shape[1]
    groups = torch.arange(k) // (k if group == -1 else group)
    q, scale, zero, weight = grid(shape, groups, 4, symmetric=symmetric, seed=seed)
    return {
        "qweight": words(q.T, 4, AWQ_ORDER),
        "qzeros": words(zero.T, 4, AWQ_ORDER),
        "scales": scale.T.contiguous(),
    }, weight


def compressed(
    shape: tuple[int, int], *, bits: int = 4, group: int = 32, symmetric: bool = True, seed: int = 0
) -> tuple[Layer, Tensor]:
    """A layer of compressed-tensors' PackQuantizationCompressor, and its weight [N, K]. Its integers are signed, and
    pack_to_int32 adds 2^(bits - 1), so the stored ones are those of `grid`."""
    k = shape[1]
    groups = torch.arange(k) // (k if group == -1 else group)
    q, scale, zero, weight = grid(shape, groups, bits, symmetric=symmetric, seed=seed)
    layer = {"weight_packed": words(q, bits), "weight_scale": scale, "weight_shape": torch.tensor(shape)}
    if not symmetric:
        layer["weight_zero_point"] = words(zero.T, bits).T.contiguous()
    return layer, weight


def quantize_folder(
    source: Path, out: Path, layer: Callable[..., tuple[Layer, Tensor]], config: dict[str, Any], **options: Any
) -> dict[str, Tensor]:
    """Write a saved model's folder again with random quantized weights in all of its layers; returns these in fp32."""
    shutil.copytree(source, out)
    kept: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(load_file(source / "model.safetensors").items()):
        if "_proj.weight" in name:
            packed, weights[name] = layer(tuple(tensor.shape), seed=number, **options)
            kept |= {f"{name.removesuffix('.weight')}.{part}": value.contiguous() for part, value in packed.items()}
        else:
            kept[name] = tensor
    save_file(kept, out / "model.safetensors", {"format": "pt"})
    path = out / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    return weights
