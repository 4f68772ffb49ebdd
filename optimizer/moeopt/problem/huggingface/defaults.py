"""What a config.json leaves unsaid: the values that a family's configuration class in transformers takes then.

Only fields that a reader here would otherwise have to assume, and only values that transformers 4.57 and 5.24 share (of
later families, 5.18's). A field that is given as null is not absent: it keeps the meaning that null has there. Main
dimensions have no entry: a config without its hidden size is incomplete, whatever a class would build from it.
"""

from typing import Any

_DEEPSEEK_V3: dict[str, Any] = {
    "q_lora_rank": 1536,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}
_QWEN: dict[str, Any] = {"sliding_window": 4096, "max_window_layers": 28}
_DELTA_NET: dict[str, Any] = {
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.25,
}
_INDEXER = {"index_topk": 2048, "index_head_dim": 128}
_EPSILON = {"rms_norm_eps": 1e-6}
_EPSILON_5 = {"rms_norm_eps": 1e-5}

DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        **_EPSILON,
        "q_lora_rank": 1536,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "rope_theta": 1e4,
    },
    "deepseek_v3": {**_DEEPSEEK_V3, **_EPSILON, "rope_theta": 1e4},
    "deepseek_v32": {**_DEEPSEEK_V3, **_INDEXER, **_EPSILON, "index_n_heads": 64, "rope_theta": 1e4},
    "dots1": {
        **_EPSILON,
        "num_key_value_heads": 32,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": False,
        "sliding_window": 4096,
        "max_window_layers": 62,
        "rope_theta": 1e4,
    },
    "ernie4_5_moe": {
        **_EPSILON_5,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "rope_theta": 5e5,
    },
    "exaone_moe": {
        **_EPSILON_5,
        "num_key_value_heads": 32,
        "first_k_dense_replace": 1,
        "num_shared_experts": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "rope_theta": 1e4,
    },
    "glm4_moe": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    },
    "glm4_moe_lite": {
        **_EPSILON_5,
        "q_lora_rank": 768,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.8,
        "rope_theta": 1e4,
    },
    "glm4v_moe_text": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "attention_bias": True,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
    },
    "glm_moe_dsa": {**_DEEPSEEK_V3, **_INDEXER, **_EPSILON_5, "q_lora_rank": 2048, "index_n_heads": 32},
    "gpt_oss": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "attention_bias": True,
        "sliding_window": 128,
        "rope_theta": 1.5e5,
    },
    "hunyuan_v1_moe": {**_EPSILON_5, "rope_theta": 1e4},
    "hy_v3": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "num_shared_experts": 1,
        "router_scaling_factor": 2.826,
        "rope_theta": 11158840.0,
    },
    "kimi_k2": {**_DEEPSEEK_V3, **_EPSILON, "rope_theta": 1e4},
    "llama": {**_EPSILON, "rope_theta": 1e4},
    "llama4_text": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_chunk_size": 8192,
        "rope_theta": 5e5,
    },
    "mellum": {**_EPSILON, "num_key_value_heads": 4, "head_dim": 128, "norm_topk_prob": True, "sliding_window": 1024},
    "minimax_m2": {**_EPSILON, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 5e6},
    "ministral3": {**_EPSILON_5, "num_key_value_heads": 8, "head_dim": 128},
    "mistral": {**_EPSILON, "num_key_value_heads": 8, "sliding_window": 4096, "rope_theta": 1e4},
    "mistral4": {**_EPSILON, "q_lora_rank": 1024, "n_shared_experts": 1, "norm_topk_prob": True},
    "mixtral": {**_EPSILON_5, "num_key_value_heads": 8, "rope_theta": 1e6},
    "nemotron_h": {
        "num_key_value_heads": 8,
        "head_dim": 128,
        "layer_norm_epsilon": 1e-5,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "n_groups": 8,
        "ssm_state_size": 128,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    },
    "olmoe": {**_EPSILON_5, "norm_topk_prob": False, "rope_theta": 1e4},
    "phimoe": {**_EPSILON_5, "num_key_value_heads": 8, "rope_theta": 1e6},
    "qwen2": {**_QWEN, **_EPSILON, "num_key_value_heads": 32, "rope_theta": 1e4},
    "qwen2_moe": {**_QWEN, **_EPSILON, "num_key_value_heads": 16, "norm_topk_prob": False, "rope_theta": 1e4},
    "qwen3": {**_QWEN, **_EPSILON, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 1e4},
    "qwen3_5_moe_text": {**_EPSILON, **_DELTA_NET, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512},
    "qwen3_5_text": {**_EPSILON, **_DELTA_NET, "num_key_value_heads": 4},
    "qwen3_next": {
        **_EPSILON,
        **_DELTA_NET,
        "num_key_value_heads": 2,
        "shared_expert_intermediate_size": 512,
        "norm_topk_prob": True,
    },
    "qwen3_moe": {**_QWEN, **_EPSILON, "num_key_value_heads": 4, "norm_topk_prob": False, "rope_theta": 1e4},
    "qwen3_omni_moe_text": {**_EPSILON, "num_key_value_heads": 4, "norm_topk_prob": True, "rope_theta": 1e6},
    "qwen3_vl_moe_text": {
        **_EPSILON,
        "num_key_value_heads": 16,
        "tie_word_embeddings": True,
        "norm_topk_prob": True,
        "rope_theta": 5e5,
    },
    "qwen3_vl_text": {**_EPSILON, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 5e5},
    "solar_open": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "rope_theta": 1e6,
    },
}
