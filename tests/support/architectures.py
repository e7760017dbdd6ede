"""Small models of many architectures: every kind of mask, norm, position and head that the wrapper knows."""

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from transformers import PreTrainedModel

from pipeline.checkpoint import loading
from pipeline.core.schema import Model, Source

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,  # ONNX Runtime's fused attention takes multiples of 16; gpt2 below has 8
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 6}
LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
LONGCAT = SMALL | {  # latent attention, groups of experts, experts without weights, two attentions in a layer
    "num_key_value_heads": 4,
    "num_layers": 2,
    "ffn_hidden_size": 48,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "expert_ffn_hidden_size": 32,
    "moe_topk": 3,
}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
}
SHARED = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 128,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "mistral": SMALL | WINDOW,
    "qwen2": SMALL,
    "qwen3": SMALL,
    "gemma": SMALL,
    "gemma2": SMALL | WINDOW | LAYERS | {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": SMALL | WINDOW | LAYERS,
    "phi3": SMALL | {"max_position_embeddings": 256, "original_max_position_embeddings": 256},
    "granite": SMALL | {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.7},
    "olmo2": SMALL,
    "stablelm": SMALL,
    "starcoder2": SMALL | WINDOW,
    "gpt2": {"vocab_size": 128, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.3},
    "minicpm3": SMALL | LATENT,  # latent attention
    "glm": SMALL | {"partial_rotary_factor": 0.5},  # interleaved pairs
    "gpt_neox": SMALL,
    "mixtral": SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "longcat_flash": LONGCAT,
    "opt": SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
}
# what else attention may have
ATTENTIONS: dict[str, dict[str, Any]] = {
    "granite_swa": SMALL | WINDOW | LAYERS | {"attention_multiplier": 0.25},  # sinks
    "deepseek_v2": SMALL | LATENT | {"first_k_dense_replace": 3},  # a rotary embedding in complex numbers
    # such an embedding, chunks, queries scaled by their position
    "llama4_text": SMALL
    | {"layer_types": ["chunked_attention", "full_attention", "chunked_attention"], "no_rope_layers": [1, 0, 1]}
    | {"attention_chunk_size": 6, "floor_scale": 4, "intermediate_size_mlp": 48, "moe_layers": []},
    # the last layer of each kind reads the cache of the one before
    "gemma3n_text": SMALL | WINDOW | SHARED | {"laurel_rank": 8, "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0]},
    "gemma4_text": SMALL | WINDOW | SHARED | {"global_head_dim": 32},  # heads that differ by layer
    "diffllama": SMALL,  # two attentions in a layer
    "doge": SMALL,  # a mask that it makes from the values, in place of the causal one
}

SHORT = {"vocab_size": 128, "hidden_size": 64, "initializer_range": 0.3, "pad_token_id": 0}
HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4}
GPT = SHORT | {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "rotary_dim": 8}
BERT = SHORT | HEADS | {"intermediate_size": 48, "is_decoder": True, "max_position_embeddings": 128}
BART = {
    "vocab_size": 128,
    "d_model": 64,
    "init_std": 0.3,
    "pad_token_id": 0,
    "max_position_embeddings": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "is_decoder": True,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "is_encoder_decoder": False,
}
LOCAL = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 6}
DBRX = {
    "vocab_size": 128,
    "d_model": 64,
    "n_layers": 2,
    "n_heads": 4,
    "initializer_range": 0.3,
    "max_seq_len": 128,
    "attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0, "kv_n_heads": 2},
    "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 1, "hidden_size": 64},
}
# models that write attention out by themselves, or take no position_ids, and mixtures of experts whose attention is no
# plain one: kind -> architecture, configuration
WIDER: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("falcon", SHORT | HEADS),
    "falcon, new decoder": ("falcon", SHORT | HEADS | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, alibi": ("falcon", SHORT | HEADS | {"alibi": True, "multi_query": False, "num_kv_heads": 4}),
    "bloom": ("bloom", SHORT | {"n_layer": 2, "n_head": 4}),
    "gptj": ("gptj", GPT),
    "codegen": ("codegen", GPT),
    "ctrl": ("ctrl", GPT | {"dff": 48}),
    "mpt": ("mpt", SHORT | {"d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "gpt_neo": ("gpt_neo", SHORT | LOCAL | {"max_position_embeddings": 128}),
    "gpt_neox_japanese": ("gpt_neox_japanese", SHORT | HEADS),
    "xglm": ("xglm", BART | {"attention_heads": 4, "num_layers": 2, "ffn_dim": 48}),
    "trocr": ("trocr", BART),
    "trocr, sinusoidal": ("trocr", BART | {"use_learned_position_embeddings": False}),
    "mvp": ("mvp", BART),
    "big_bird": ("big_bird", BERT | {"attention_type": "original_full"}),
    "bart": ("bart", BART),
    "marian": ("marian", BART),
    "pegasus": ("pegasus", BART),
    "whisper": ("whisper", BART | {"max_target_positions": 128, "bos_token_id": 1, "eos_token_id": 2}),
    "dbrx": ("dbrx", DBRX),  # experts as rows of matrices; one chosen
    "bert": ("bert", BERT),
    "xmod": ("xmod", BERT | {"languages": ["en_XX", "de_DE"], "default_language": "de_DE", "pre_norm": True}),
    "roberta": ("roberta", BERT),
    "gpt_oss": ("gpt_oss", SMALL | WINDOW | LAYERS | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3": (
        "deepseek_v3",
        SMALL
        | LATENT
        | {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 32}
        | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    ),
    "llama4_text, experts": ("llama4_text", ATTENTIONS["llama4_text"] | {"moe_layers": [0, 2], "num_local_experts": 4}),
}


def random_model(kind: str, **changes: Any) -> dict[str, Any]:
    """Return section `model` of params.yaml for an architecture, or for a kind of WIDER, with these changes to its
    configuration."""
    architecture, config = WIDER[kind] if kind in WIDER else (kind, (ARCHITECTURES | ATTENTIONS)[kind])
    return {"source": "random", "architecture": architecture, "config": config | changes, "seed": 0}


def wider_model(kind: str) -> PreTrainedModel:
    """A small model of a kind of WIDER with random weights."""
    architecture, config = WIDER[kind]
    return loading.load(Model(source=Source.random, architecture=architecture, config=config, seed=0), None)


def small_model(architecture: str, **changes: Any) -> PreTrainedModel:
    """A small model with random weights, with these changes to its configuration."""
    config = (ARCHITECTURES | ATTENTIONS)[architecture] | changes
    return loading.load(Model(source=Source.random, architecture=architecture, config=config, seed=0), None)


def small_llama(seed: int) -> PreTrainedModel:
    """A small Llama with random weights."""
    return loading.load(Model(source=Source.random, architecture="llama", config=SMALL, seed=seed), None)


def mostly_slow(names: Iterable[str], *quick: str) -> list[ParameterSet]:
    """Return the parameters `names`, all but the `quick` ones marked slow."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
