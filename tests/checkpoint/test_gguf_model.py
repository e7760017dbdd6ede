"""gguf_model: a GGUF file is loaded whole, with its rotary scaling, or refused by name."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pipeline.checkpoint import gguf_model, loading
from pipeline.checkpoint.tokenizer import load_tokenizer
from pipeline.core.errors import UserError
from pipeline.core.schema import Model, Source
from tests.support import gguf_files

WIDTH = gguf_files.HIDDEN // gguf_files.HEADS


def refusal(path: Path) -> str:
    """The one problem of a file, in words."""
    with pytest.raises(UserError) as error:
        loading.load(Model(Source.gguf, path=str(path)), path)
    (problem,) = error.value.problems
    assert problem.where == "model.path"
    return problem.what


def inverse_frequencies(base: float = 10000.0) -> np.ndarray:
    """Of plain rotary positions, fp64."""
    return np.asarray(base ** (-np.arange(0, WIDTH, 2) / WIDTH))


def rotary(path: Path) -> Any:
    """The rotary module of the loaded model."""
    return gguf_model.load(path).model.rotary_emb


def test_every_byte_is_what_transformers_gives(tmp_path: Path) -> None:
    """All tensors and the whole tokenizer, read quickly and as transformers does by itself; plain and in blocks."""
    types = {"token_embd.weight": Kind.Q8_0, "blk.0.attn_q.weight": Kind.Q4_0, "blk.1.ffn_up.weight": Kind.Q5_1}
    path = gguf_files.write(tmp_path / "a.gguf", types=types | {"blk.1.attn_k.weight": Kind.F16})
    model = gguf_model.load(path)
    options = {"gguf_file": path.name, "dtype": torch.float32}
    own = AutoModelForCausalLM.from_pretrained(tmp_path, **options, quantization_config=GgufConfig(dequantize=True))
    assert model.config.to_dict() == own.config.to_dict()
    assert model.state_dict().keys() == own.state_dict().keys()
    for name, tensor in own.state_dict().items():
        assert tensor.numpy().tobytes() == model.state_dict()[name].numpy().tobytes(), name
    quick = load_tokenizer(Model(Source.gguf, path=str(path)), path)
    assert quick is not None
    plain = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    plain.backend_tokenizer.pre_tokenizer = quick.backend_tokenizer.pre_tokenizer
    assert quick.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
    assert quick.special_tokens_map == plain.special_tokens_map


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    """It would stay random, by equal seeds on both sides of the proof."""
    weights = gguf_files.tensors()
    del weights["blk.1.attn_k.weight"]
    said = refusal(gguf_files.write(tmp_path / "a.gguf", weights=weights))
    assert said == f"1 tensor is missing from {tmp_path}/a.gguf: model.layers.1.self_attn.k_proj.weight"


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    """Biases of an architecture that transformers defines without them."""
    weights = gguf_files.tensors() | {f"blk.0.attn_{x}.bias": np.ones(64, np.float32) for x in "qkv"}
    said = refusal(gguf_files.write(tmp_path / "a.gguf", weights=weights))
    names = "blk.0.attn_k.bias, blk.0.attn_q.bias, blk.0.attn_v.bias"
    assert said == f"3 tensors of {tmp_path}/a.gguf have no place in the model: {names}"


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    """With both shapes."""
    weights = gguf_files.tensors() | {"blk.0.ffn_gate.weight": np.ones((80, 64), np.float32)}
    said = refusal(gguf_files.write(tmp_path / "a.gguf", weights=weights))
    name = "model.layers.0.mlp.gate_proj.weight"
    assert said == f"{name} has the shape [80, 64] in {tmp_path}/a.gguf and [96, 64] by its metadata"


@pytest.mark.parametrize(("key", "value"), [("llama.block_count", None), ("llama.attention.head_count", "many")])
def test_metadata_that_transformers_cannot_read(tmp_path: Path, key: str, value: Any) -> None:
    """A missing number, a text in its place."""
    assert str(tmp_path) in refusal(gguf_files.write(tmp_path / "a.gguf", {key: value}))


def test_an_architecture_that_transformers_does_not_know(tmp_path: Path) -> None:
    """Named, with the file."""
    path = gguf_files.write(tmp_path / "a.gguf", architecture="nobodys")
    with pytest.raises(UserError, match=r"a\.gguf does not load: .* architecture nobodys is not supported"):
        loading.load(Model(Source.gguf, path=str(path)), path)


def test_a_number_without_a_place_is_named(tmp_path: Path) -> None:
    """What llama.cpp would compute with."""
    said = refusal(gguf_files.write(tmp_path / "a.gguf", {"llama.attention.scale": 0.5}))
    assert "llama.attention.scale = 0.5 is not applied" in said


@pytest.mark.parametrize("name", ["logit_scale", "embedding_scale", "residual_scale"])
def test_numbers_that_change_nothing(tmp_path: Path, name: str) -> None:
    """A factor of 1, and the scale of attention that the model has anyway, are no reason to refuse a file."""
    metadata = {f"llama.{name}": 1.0, "llama.attention.scale": 1 / math.sqrt(WIDTH)}
    gguf_model.configuration(gguf_files.write(tmp_path / "a.gguf", metadata))
    assert f"{name} = 2.0 is not applied" in refusal(gguf_files.write(tmp_path / "b.gguf", {f"llama.{name}": 2.0}))


@pytest.mark.parametrize(("architecture", "width", "scale"), [
    ("llama", 24, 24**-0.5),  # not a number of fp32, which files hold
    ("gemma3", 24, 24**-0.5),
])  # fmt: skip
def test_the_scale_of_attention_by_the_size_of_a_head(
    tmp_path: Path, architecture: str, width: int, scale: float
) -> None:
    """Of the size that the file states; any other scale is refused."""
    sizes: dict[str, Any] = {f"llama.attention.{part}_length": width for part in ("key", "value")}
    sizes["llama.rope.dimension_count"] = width
    path = gguf_files.write(tmp_path / "a.gguf", sizes | {"llama.attention.scale": scale}, architecture=architecture)
    assert gguf_model.configuration(path).head_dim == width
    other = gguf_files.write(
        tmp_path / "b.gguf", sizes | {"llama.attention.scale": scale * 1.001}, architecture=architecture
    )
    assert "attention.scale" in refusal(other)


@pytest.mark.parametrize("key", gguf_model.STATED)
def test_a_number_that_differs_between_layers_is_refused(tmp_path: Path, key: str) -> None:
    """Where transformers' configuration does not refuse the list itself, it would be left out."""
    said = refusal(gguf_files.write(tmp_path / "a.gguf", {f"llama.{key}": [2, 1]}))
    own = "Validation error for field" in said and "got list" in said
    assert own or said == f"{tmp_path}/a.gguf: llama.{key} differs between layers: [2, 1]"


def test_equal_numbers_of_all_layers_are_one_number(tmp_path: Path) -> None:
    """A list where others have a number."""
    lists = {f"llama.attention.{part}_length": [24, 24] for part in ("key", "value")}
    path = gguf_files.write(tmp_path / "a.gguf", lists | {"llama.rope.dimension_count": 24})
    assert gguf_model.configuration(path).head_dim == 24


def test_a_head_size_that_is_not_the_configurations_default(tmp_path: Path) -> None:
    """transformers' loader does not read it for Qwen 3, whose default is 128."""
    weights = gguf_files.tensors()
    for layer in range(gguf_files.LAYERS):
        weights |= {f"blk.{layer}.attn_{x}_norm.weight": np.ones(WIDTH, np.float32) for x in "qk"}
    metadata = {"llama.attention.key_length": WIDTH, "llama.attention.value_length": WIDTH}
    path = gguf_files.write(tmp_path / "a.gguf", metadata, weights, architecture="qwen3")
    assert gguf_model.load(path).config.head_dim == WIDTH


@pytest.mark.parametrize("metadata", [
    {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
    {"llama.rope.scale_linear": 4.0},
])  # fmt: skip
def test_linear_scaling(tmp_path: Path, metadata: dict[str, Any]) -> None:
    """Frequencies are divided by the factor; a factor without a type is llama.cpp's linear scaling."""
    module = rotary(gguf_files.write(tmp_path / "a.gguf", metadata))
    np.testing.assert_allclose(module.inv_freq, inverse_frequencies() / 4, rtol=1e-6)
    assert module.attention_scaling == 1


def test_yarn_scaling(tmp_path: Path) -> None:
    """By ggml's formula (rope_yarn in ggml-cpu/ops.cpp), written anew: a ramp between frequencies that are kept and
    those that are divided, and a longer cosine."""
    factor, context = 4.0, 64
    metadata = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": factor,
        "llama.rope.scaling.original_context_length": context,
    }
    module = rotary(gguf_files.write(tmp_path / "a.gguf", metadata))

    def dimension(rotations: float) -> float:
        return WIDTH * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(10000.0))

    low, high = max(0, math.floor(dimension(32))), min(WIDTH - 1, math.ceil(dimension(1)))
    ramp = 1 - np.clip((np.arange(WIDTH // 2) - low) / max(0.001, high - low), 0, 1)
    wanted = inverse_frequencies() / factor * (1 - ramp) + inverse_frequencies() * ramp
    np.testing.assert_allclose(module.inv_freq, wanted, rtol=1e-6)
    assert module.attention_scaling == pytest.approx(1 + 0.1 * math.log(factor))


@pytest.mark.parametrize("known", gguf_model.LLAMA3, ids=lambda known: str(known["factor"]))
def test_factors_of_llama_3(tmp_path: Path, known: dict[str, Any]) -> None:
    """A file holds by what each frequency is divided; the scaling that makes these factors is found."""
    base = 500000.0
    factors = gguf_model.llama3_factors(known, base, WIDTH).astype(np.float32)
    assert factors.min() == 1
    assert factors.max() == known["factor"]
    weights = gguf_files.tensors() | {"rope_freqs.weight": factors}
    module = rotary(gguf_files.write(tmp_path / "a.gguf", {"llama.rope.freq_base": base}, weights))
    np.testing.assert_allclose(module.inv_freq, inverse_frequencies(base) / factors, rtol=1e-6)


def test_other_factors_are_refused(tmp_path: Path) -> None:
    """Those of no known scaling; ones change nothing."""
    ones = np.ones(WIDTH // 2, np.float32)
    path = gguf_files.write(tmp_path / "a.gguf", weights=gguf_files.tensors() | {"rope_freqs.weight": ones})
    np.testing.assert_allclose(rotary(path).inv_freq, inverse_frequencies(), rtol=1e-6)
    other = gguf_files.write(tmp_path / "b.gguf", weights=gguf_files.tensors() | {"rope_freqs.weight": ones * 2})
    assert "rope_freqs.weight are not those of a known scaling" in refusal(other)
