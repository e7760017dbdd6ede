"""A tiny configuration of any of transformers' causal LMs, made from the defaults of its configuration class.

Sizes are replaced by the names of their keys, in nested configurations too; families that need values of their own are
in `families`. Layers of several kinds alternate, so that every kind occurs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.coverage.families import FAMILIES

LAYERS = 2  # of a model whose layers are all alike
HEADS = 4
VOCABULARY = 256

# value: the keys that get it, where a configuration has them
SIZES: tuple[tuple[float, str], ...] = (
    (
        64,
        """
        hidden_size d_model n_embd dim_model embed_dim embedding_dim emb_dim word_embed_proj_dim embedding_size
        hidden_size_global input_embedding_size output_embedding_size lru_width pronunciation_embed_dim shape_embed_dim
        attention_hidden_size out_hidden_size projector_input_dim projector_output_dim vision_output_dim output_channels
        swa_hidden_size backbone_hidden_size ple_embed_dim max_image_size mamba_d_ssm prompt_mid_dim
    """,
    ),
    (
        128,
        """
        intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size n_inner d_inner dff dim_ff d_ff
        feed_forward_size intermediate_size_mlp dense_intermediate_size mlp_dim
    """,
    ),
    (
        48,
        """
        moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size shared_experts_intermediate_size
        shared_intermediate_size moe_shared_expert_intermediate_size
    """,
    ),
    (
        LAYERS,
        """
        num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers
        num_encoder_layers num_blocks depth num_layers_per_stack num_global_layers
    """,
    ),
    (
        HEADS,
        """
        num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads attention_heads
        num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads linear_num_heads
        linear_num_value_heads mamba_num_heads mamba_n_heads n_mamba_heads conf_num_attention_heads num_query_groups
    """,
    ),
    (
        16,
        """
        head_dim d_head dim_head kv_channels qk_nope_head_dim qk_rope_head_dim v_head_dim swa_head_dim global_head_dim
        attention_head_size linear_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head mamba_head_dim
        mamba_headdim attention_chunk_size floor_scale rel_extent query_pre_attn_scalar router_hidden_size
        hidden_size_per_layer_input log_scaling_n_floor d_kv
    """,
    ),
    (
        32,
        """
        qk_head_dim q_lora_rank kv_lora_rank o_lora_rank index_head_dim index_n_heads gated_norm_rank image_size
        downsample_hidden_size dim_model_base
    """,
    ),
    (
        8,
        """
        num_experts num_local_experts n_routed_experts moe_num_experts index_topk sliding_window sliding_window_size
        window_size attention_window_size local_attention mamba_chunk_size chunk_size rotary_dim state_size
        ssm_state_size mamba_d_state time_step_rank mamba_dt_rank laurel_rank patch_size hc_lowrank adapter_rank
    """,
    ),
    (
        VOCABULARY,
        """
        vocab_size decoder_vocab_size vocab_size_per_layer_input audio_vocab_size unpadded_vocab_size codebook_size
        pronunciation_vocab_size shape_vocab_size encoder_hash_byte_group_vocab ngram_vocab_size_base num_centroids
        num_position_embeddings
    """,
    ),
    (
        2,
        """
        num_experts_per_tok num_experts_per_token moe_k moe_topk moe_top_k top_k_experts swa_num_key_value_heads
        linear_num_key_heads o_groups split_ngram_parts num_global_key_value_heads num_codebooks
    """,
    ),
    (4, "zero_expert_num hc_mult hc_count index_block_size"),
    (1, "first_k_dense_replace num_dense_layers moe_layer_start_index n_shared_experts num_shared_experts"),
    # of a size that keeps numbers between layers near 1, so that no rounding and no fault hides: 1 / sqrt(64)
    (0.125, "initializer_range init_std init_method_std"),
)
SMALL = {name: value for value, names in SIZES for name in names.split()}
KEY_VALUE_HEADS = {"num_key_value_heads", "num_kv_heads", "kv_n_heads"}
GROUPS = {"n_group": 2, "num_expert_group": 2, "topk_group": 1}  # where the family groups its experts
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PER_LAYER = {  # lists with an entry for each layer
    *("layer_types", "layers_block_type", "mlp_layer_types", "indexer_types", "no_rope_layers", "block_types"),
    *("num_attention_heads_per_layer", "layer_rope_theta", "attention_layers", "activation_sparsity_pattern"),
}


def types() -> list[str]:
    """Every type of transformers' mapping of causal LMs."""
    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(kind: str) -> dict[str, Any]:
    """Return the changes to a type's default configuration that make it tiny."""
    own = FAMILIES.get(kind, {})
    try:
        default = CONFIG_MAPPING[kind]()
    except Exception:  # defaults that contradict each other: those that the family states are valid
        default = CONFIG_MAPPING[kind](**own)
    return merged(_changes(default, kind), own)


def merged(changes: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes with a family's own on top, key by key in nested configurations too."""
    found = dict(changes)
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and key.endswith("config"):
            found[key] = merged(found[key], value)
        else:
            found[key] = value
    return found


def _changes(config: PreTrainedConfig, kind: str) -> dict[str, Any]:
    """Return the changes to one configuration and those inside it."""
    values = vars(config)
    layers = _layers(values)
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, PreTrainedConfig):
            found[key] = {"model_type": value.model_type, **_changes(value, value.model_type)}
        elif key in PER_LAYER and isinstance(value, Sequence) and not isinstance(value, str):
            found[key] = _cycled(value, layers, key)
        elif key in SMALL and isinstance(value, list):
            found[key] = [SMALL[key]] * layers
        elif key == "is_decoder":  # an encoder that is used as a decoder
            found[key] = True
        elif key in KEY_VALUE_HEADS and isinstance(value, int):
            latent = "kv_lora_rank" in values
            found[key] = HEADS if latent else 1 if value == 1 else HEADS // 2
        elif key in GROUPS and isinstance(value, int):
            found[key] = GROUPS[key] if value > 1 else value
        elif key.endswith(("token_id", "token_index")) and value is not None:
            found[key] = TOKENS.get(key, 3 + len(found) % 100)
        elif key in SMALL and isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = min(SMALL[key], value) if value in (0, 1) else SMALL[key]
    for key in found.keys() & {"num_hidden_layers", "n_layer", "n_layers", "num_layers"}:
        found[key] = layers
    if values.get("num_kv_shared_layers"):
        found["num_kv_shared_layers"] = layers // 2
    return found


def _layers(values: Mapping[str, Any]) -> int:
    """Return how many layers show each kind: two of each kind where they alternate, up to six layers."""
    kinds = 1
    for key in PER_LAYER & values.keys():
        if isinstance(values[key], Sequence) and not isinstance(values[key], str):
            kinds = max(kinds, len(_kinds(values[key], key)))
    return LAYERS if kinds == 1 else min(2 * kinds, 6)


def _kinds(value: Sequence[Any], key: str) -> list[Any]:
    """Return the different entries in the order in which they occur; the first three."""
    if key == "num_attention_heads_per_layer":
        return [HEADS]
    return list(dict.fromkeys(value))[:3]


def _cycled(value: Sequence[Any], layers: int, key: str) -> list[Any]:
    kinds = _kinds(value, key)
    return [kinds[layer % len(kinds)] for layer in range(layers)] if kinds else []
