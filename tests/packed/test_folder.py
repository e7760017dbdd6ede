"""Folders of quantized checkpoints, loaded as fp32 models, carried into int4, and verified."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from pipeline import engine
from pipeline.checkpoint import loading
from pipeline.core import layout
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from pipeline.runtime.open import open_engine
from tests.support import packed
from tests.support.points import build

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 512}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq"}
KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "gptq": (packed.gptq, GPTQ, {}),
    "gptq sorted": (packed.gptq, GPTQ, {"sorted_inputs": True}),
    "gptq_v2": (packed.gptq, GPTQ | {"checkpoint_format": "gptq_v2"}, {"older": False, "symmetric": True}),
    "awq": (packed.awq, {"quant_method": "awq", "version": "gemm"}, {"group": -1}),
    "compressed-tensors": (packed.compressed, {"quant_method": "compressed-tensors", "format": "pack-quantized"}, {}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as save_pretrained writes it, with an end token of its own."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2))
    model.generation_config.eos_token_id = 7
    model.save_pretrained(folder)
    return folder


def local(folder: Path) -> Model:
    """A model from this folder."""
    return Model(source=Source.local, path=str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_packed_ones(kind: str, saved: Path, tmp_path: Path) -> None:
    """In fp32, bit for bit; the others are those of the file, and so is what ends a text."""
    layer, config, options = KINDS[kind]
    want = packed.quantize_folder(saved, tmp_path / "packed", layer, config, **options)
    model = loading.load(local(tmp_path / "packed"), tmp_path / "packed")
    found = model.state_dict()
    want |= {name: value for name, value in load_file(saved / "model.safetensors").items() if name not in want}
    assert found.keys() == want.keys()
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert model.generation_config.eos_token_id == 7
    assert model.dtype is torch.float32


@pytest.mark.parametrize("method", ["fp8", "compressed-tensors"])
def test_small_floats_in_shards(method: str, saved: Path, tmp_path: Path) -> None:
    """A layer's scales may be in another file than its weight; scales of activations and of the cache are not read."""
    name, scale = ("weight_scale_inv", (1, 1)) if method == "fp8" else ("weight_scale", (128, 1))
    config: dict[str, Any] = {"quant_method": method, "weight_block_size": [128, 128], "format": "float-quantized"}
    shards: list[dict[str, torch.Tensor]] = [{}, {}]
    want = {}
    for key, tensor in load_file(saved / "model.safetensors").items():
        if "o_proj" in key:
            small = tensor.to(torch.float8_e4m3fn)
            factor = torch.rand(scale)
            shards[0][key], want[key] = small, small.float() * factor
            prefix = key.removesuffix("weight")
            shards[1] |= {f"{prefix}{name}": factor, f"{prefix}input_scale": torch.ones(1)}
            shards[1][key.replace("o_proj.weight", "k_scale")] = torch.ones(1)
        else:
            shards[0][key] = want[key] = tensor
    index = {key: f"model-{i}.safetensors" for i, shard in enumerate(shards) for key in shard}
    for i, shard in enumerate(shards):
        save_file(shard, tmp_path / f"model-{i}.safetensors", {"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    text = json.loads((saved / "config.json").read_text()) | {"quantization_config": config}
    (tmp_path / "config.json").write_text(json.dumps(text))
    found = loading.load(local(tmp_path), tmp_path).state_dict()
    assert found.keys() == want.keys()
    assert all(torch.equal(found[key], want[key]) for key in want)


def test_layers_of_gpt2_are_the_other_way(tmp_path: Path) -> None:
    """Its linear layers have weights [K, N], and a square one would fit unnoticed."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=100, n_positions=32))
    tensors = model.state_dict()
    del tensors["lm_head.weight"]
    name = "transformer.h.0.attn.c_proj"
    layer, weight = packed.gptq((64, 64))
    del tensors[f"{name}.weight"]
    save_file(tensors | {f"{name}.{part}": value for part, value in layer.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config.to_dict() | {"quantization_config": GPTQ}))
    found = loading.load(local(tmp_path), tmp_path).state_dict()
    assert torch.equal(found[f"{name}.weight"], weight.T)


def test_integers_are_carried_into_int4(saved: Path, tmp_path: Path) -> None:
    """To an engine whose logits are those of the unpacked model; q, k and v are one weight there. Inputs are sorted
    (desc_act), those of q, k and v the same way."""
    packed.quantize_folder(saved, tmp_path / "packed", packed.gptq, GPTQ, sorted_inputs=True)
    model = {"source": "local", "path": str(tmp_path / "packed"), "trust_remote_code": False}
    overrides = ["precision=int4", "quantize.embedding=none", "engine.int8_activations=false"]
    build(tmp_path / "point", overrides, engine, model=model)
    report = json.loads((tmp_path / "point" / layout.QUANTIZED / layout.QUANTIZATION).read_text())["tensors"]
    assert {(e["stored_as"], e["form"]) for e in report} == {("gptq", "linear, int4 blocks of 32 with a center")}
    assert all(entry["exact"] == entry["rows"] for entry in report)
    tokens = torch.arange(16)[None] * 31 % 512
    original = loading.load(local(tmp_path / "packed"), tmp_path / "packed")
    with torch.no_grad():
        want = original(tokens).logits[:, -1:]
    got = open_engine(tmp_path / "point" / layout.ENGINE).session(1).step(tokens.tolist())
    torch.testing.assert_close(torch.from_numpy(got), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_damaged_layer_is_named(damage: str, saved: Path, tmp_path: Path) -> None:
    """The layer, and the tensor that is missing or all their shapes."""
    packed.quantize_folder(saved, tmp_path / "packed", packed.gptq, GPTQ)
    path = tmp_path / "packed" / "model.safetensors"
    tensors, name = load_file(path), "model.layers.0.mlp.down_proj"
    scales = tensors.pop(f"{name}.scales")
    if damage == "shape":
        tensors[f"{name}.scales"] = scales[:3].contiguous()
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(UserError) as error:
        loading.load(local(tmp_path / "packed"), tmp_path / "packed")
    (found,) = error.value.problems
    says = "its tensor scales is missing" if damage == "missing" else "g_idx [256], qweight [32, 128]"
    assert f"{name}.weight" in found.what
    assert says in found.what
    assert found.where == str(tmp_path / "packed")


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    """mxfp4: as transformers unpacks them into bf16, which holds them exactly."""
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_local_experts": 2, "num_hidden_layers": 1}
    config = GptOssConfig(**sizes, vocab_size=100, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    torch.manual_seed(0)
    tensors, want = GptOssForCausalLM(config).state_dict(), {}
    for part in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{part}"
        experts, k, n = tensors.pop(name).shape
        blocks = torch.randint(256, (experts, n, k // 32, 16), dtype=torch.uint8)
        scales = torch.randint(120, 130, (experts, n, k // 32), dtype=torch.uint8)
        want[name] = convert_moe_packed_tensors(blocks, scales).float()
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    given = config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}, "model_type": "gpt_oss"}
    (tmp_path / "config.json").write_text(json.dumps(given))
    found = loading.load(local(tmp_path), tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in want.items())
