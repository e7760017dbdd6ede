"""Rows of a checkpoint that are on a grid, found by what they hold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from safetensors.torch import save_file

from pipeline.core.tables.formats import FORMATS, Weights
from pipeline.quantization.checkpoint_rows import CheckpointRows, is_gguf, of_checkpoint, of_gguf
from tests.support import packed
from tests.support.quantized import random_blocks, stored, write_gguf

KINDS = GGMLQuantizationType
INT4, INT8 = FORMATS[Weights.int4], FORMATS[Weights.int8]


def test_rows_are_found_in_any_order(tmp_path: Path) -> None:
    """Rows of three tensors, shuffled, with the bits that they need; rows that were never rounded are not there."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (60, 64)).astype(np.float32)
    parts = {"a": (rows[:30], KINDS.Q4_1), "b": (rows[30:40], KINDS.Q4_0), "c": (rows[40:], KINDS.Q8_0)}
    write_gguf(tmp_path / "a.gguf", parts)
    index = CheckpointRows(of_gguf(tmp_path / "a.gguf"), np.float32)
    wanted = np.concatenate([*(stored(*part) for part in parts.values()), rows])
    order = rng.permutation(len(wanted))
    places = index.locate(wanted[order])
    assert (places[:, 0] >= 0).tolist() == (order < 60).tolist()
    assert index.bits(places).tolist() == [4 if i < 40 else 8 if i < 60 else 0 for i in order]
    few = (order < 40).nonzero()[0]
    assert index.kinds(places[few]) == ["Q4_0", "Q4_1"]
    grid = index.grid(places[few], INT4)
    assert grid is not None
    np.testing.assert_array_equal(grid.values(), wanted[order][few])


def test_a_weight_of_two_kinds_has_the_smaller_blocks_and_the_larger_bits(tmp_path: Path) -> None:
    """Q4_K has an offset for 32 values, Q6_K none for 16: as q and v of one weight, in a file that is called Q4_K_M."""
    data = {"q": random_blocks(20, 256, KINDS.Q4_K), "v": random_blocks(10, 256, KINDS.Q6_K)}
    write_gguf(tmp_path / "a.gguf", {name: (data[name], KINDS[kind]) for name, kind in (("q", "Q4_K"), ("v", "Q6_K"))})
    index = CheckpointRows(of_gguf(tmp_path / "a.gguf"), np.float32)
    rows = np.concatenate([quants.dequantize(data["q"], KINDS.Q4_K), quants.dequantize(data["v"], KINDS.Q6_K)])
    grid = index.grid(index.locate(rows), INT8)
    assert grid is not None
    assert (grid.block, grid.offset is None, grid.format) == (16, False, INT8)
    np.testing.assert_array_equal(grid.values(), rows)


@pytest.mark.parametrize("order", [["few", "many"], ["many", "few"]])
def test_a_row_of_zeros_is_found_in_the_fewest_bits(order: list[str], tmp_path: Path) -> None:
    """Else one row that is in two tensors would make a weight of 4 bits one of 8; 0 and -0 are one number."""
    kinds = {"few": KINDS.Q4_0, "many": KINDS.Q8_0}
    write_gguf(tmp_path / "a.gguf", {name: (np.zeros((1, 32), np.float32), kinds[name]) for name in order})
    index = CheckpointRows(of_gguf(tmp_path / "a.gguf"), np.float32)
    assert index.bits(index.locate(-np.zeros((2, 32), np.float32))).tolist() == [4, 4]


def test_only_gguf_files_are_gguf_files(tmp_path: Path) -> None:
    """Told by the first bytes of a file: a folder, a text and a missing file are none, and no error."""
    (tmp_path / "text").write_text("random\n")
    write_gguf(tmp_path / "a.gguf", {})
    assert [is_gguf(tmp_path / name) for name in ("", "text", "missing", "a.gguf")] == [False, False, False, True]


@pytest.mark.parametrize(
    ("layer", "options", "block", "bits"),
    [
        (packed.gptq, {"group": 64}, 64, 4),
        (packed.gptq, {"bits": 8, "group": 32}, 32, 8),
        (packed.gptq, {"bits": 2, "symmetric": True}, 32, 4),
        (packed.awq, {"group": -1}, 128, 4),  # kernels take blocks up to 256
        (packed.compressed, {"bits": 8, "group": -1}, 512, 8),
        (packed.gptq, {"sorted_inputs": True}, 32, 4),
        (packed.gptq, {"group": 8}, None, 4),
    ],
)
def test_packed_weights_are_grids(
    layer: Callable[..., tuple[dict[str, torch.Tensor], torch.Tensor]],
    options: dict[str, Any],
    block: int | None,
    bits: int,
    tmp_path: Path,
) -> None:
    """Groups become blocks, zero points offsets; rows are found by the numbers of the fp32 model."""
    tensors, weight = layer((64, 512), **options)
    method = {packed.gptq: "gptq", packed.awq: "awq", packed.compressed: "compressed-tensors"}[layer]
    config = {"quant_method": method, "format": "pack-quantized"}
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    named = {f"layer.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named | {"other.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    found = list(of_checkpoint(tmp_path))
    if block is None:
        assert found == []
        return
    index = CheckpointRows(found, np.float32)
    rows = weight.numpy()[::-1]
    places = index.locate(rows)
    assert index.bits(places).tolist() == [bits] * 64
    grid = index.grid(places, INT4 if bits == 4 else INT8)
    assert grid is not None
    assert (grid.order is None) == ("sorted_inputs" not in options)
    assert (grid.block, grid.offset is None) == (block, layer is packed.compressed or "symmetric" in options)
    np.testing.assert_array_equal(grid.values(), rows)


def test_rows_in_different_orders_are_no_grid(tmp_path: Path) -> None:
    """As of two layers that are one weight in the graph, each sorted by inputs of its own."""
    tensors: dict[str, torch.Tensor] = {}
    weights = []
    for seed in (1, 2):
        layer, weight = packed.gptq((64, 128), sorted_inputs=True, seed=seed, order=seed)
        tensors |= {f"{seed}.{name}": tensor for name, tensor in layer.items()}
        weights.append(weight.numpy())
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    save_file(tensors, tmp_path / "model.safetensors")
    index = CheckpointRows(of_checkpoint(tmp_path), np.float32)
    assert index.grid(index.locate(np.concatenate(weights)), INT4) is None
    assert index.grid(index.locate(weights[1]), INT4) is not None
