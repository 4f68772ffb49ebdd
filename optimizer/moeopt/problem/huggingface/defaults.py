"""What a config.json leaves unsaid: the values that a family's configuration class in transformers takes then.

Only fields that a reader here would otherwise have to assume, and only values that transformers 4.57 and 5.24 share. A
field that is given as null is not absent: it keeps the meaning that null has there. Main dimensions have no entry: a
config without its hidden size is incomplete, whatever a class would build from it.
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
    "ernie4_5_moe": {
        **_EPSILON_5,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "rope_theta": 5e5,
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
    "gpt_oss": {
        **_EPSILON_5,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "attention_bias": True,
        "sliding_window": 128,
        "rope_theta": 1.5e5,
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
    "minimax_m2": {**_EPSILON, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 5e6},
    "mistral": {**_EPSILON, "num_key_value_heads": 8, "sliding_window": 4096, "rope_theta": 1e4},
    "mixtral": {**_EPSILON_5, "num_key_value_heads": 8, "rope_theta": 1e6},
    "olmoe": {**_EPSILON_5, "norm_topk_prob": False, "rope_theta": 1e4},
    "phimoe": {**_EPSILON_5, "num_key_value_heads": 8, "rope_theta": 1e6},
    "qwen2": {**_QWEN, **_EPSILON, "num_key_value_heads": 32, "rope_theta": 1e4},
    "qwen2_moe": {**_QWEN, **_EPSILON, "num_key_value_heads": 16, "norm_topk_prob": False, "rope_theta": 1e4},
    "qwen3": {**_QWEN, **_EPSILON, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 1e4},
    "qwen3_moe": {**_QWEN, **_EPSILON, "num_key_value_heads": 4, "norm_topk_prob": False, "rope_theta": 1e4},
}
