"""Values of the tiny configurations of families whose keys depend on each other, or are unset by default.

type: changes to what `configurations` makes of the names of its keys.
"""

from typing import Any

MAMBA = {"num_hidden_layers": 4, "mamba_n_heads": 8, "mamba_d_head": 16}  # mamba_expand * hidden_size = 8 * 16
ASSISTANT = {  # its layers read the keys and values of another model's
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 0,
    "enable_moe_block": False,
    "use_double_wide_mlp": False,
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
DOTS3 = {
    "head_dim": 32,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 4,
    "swa_q_lora_rank": 32,
    "swa_kv_lora_rank": 32,
    "swa_head_dim": 32,
    "swa_qk_nope_head_dim": 16,
    "swa_v_head_dim": 16,
    "index_topk": 32,  # see hy_v4
}
INDEXER = {  # of qwen4_exp
    "indexer_n_heads": 32,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 32,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}
CONV = {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "bamba": MAMBA | {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "clip_qkv": 8.0, "kv_n_heads": 2}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64, "num_experts_per_tok": 2},
        "audio_config": {"adapter_input_size": 64, "adapter_out_dim": 64, "conv_output_size": 480},
    },
    "dots3_note_text": DOTS3,
    "gemma4_assistant": {"text_config": ASSISTANT},
    "gemma4_unified_assistant": {"text_config": ASSISTANT},
    "gemma4_text": {"num_kv_shared_layers": 2},
    "granitemoehybrid": MAMBA | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "hy_v4": {"index_topk": 32},  # equal tokens have nearly equal scores, so greedy texts are near ties of an indexer
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 8, "moe_topk": 2},
    "lfm2": CONV,
    "lfm2_moe": CONV,
    "mamba2": {"num_heads": 8},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
    "ministral": {"head_dim": 16},
    "nemotron_h": {"mamba_num_heads": 8, "n_groups": 2},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "qwen4_exp": {"text_config": INDEXER},
    "qwen4_exp_text": INDEXER,
    "reformer": {"axial_pos_embds_dim": [32, 32]},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {"attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4, "mamba_headdim": 32},
    "xmod": {"default_language": "en_XX"},
}
