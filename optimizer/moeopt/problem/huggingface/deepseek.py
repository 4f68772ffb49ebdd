"""DeepSeek's families, and those whose experts are as theirs: GLM, dots.llm1, Solar, Mistral 4, Ling, Sarvam."""

from moeopt.errors import InputError
from moeopt.problem.base import shown
from moeopt.problem.dimensions import INDEX_FIELDS
from moeopt.problem.huggingface.common import (
    WINDOWED,
    Fields,
    attention_biases,
    layer_types_of_experts,
    refuse_partial_mlp_bias,
    routing,
    transformer,
    windows,
)
from moeopt.problem.huggingface.config import Config


def _experts(config: Config) -> Fields:
    """Routed experts, shared ones of the same width, dense layers first."""
    expert = config.integer("moe_intermediate_size")
    return {
        **routing(config),
        "num_experts": config.integer("n_routed_experts", "num_local_experts", "num_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": expert,
        "shared_expert_intermediate_size": config.integer("n_shared_experts", "num_shared_experts", default=0) * expert,
        "first_k_dense_replace": config.integer("first_k_dense_replace", default=0),
        "n_group": config.optional("n_group"),
        "topk_group": config.optional("topk_group"),
        "num_nextn_predict_layers": config.integer("num_nextn_predict_layers", "num_mtp_layers", default=0),
    }


def _latent(config: Config, mixers: tuple[str, ...] = WINDOWED) -> Fields:
    """Multi-head latent attention: the width of a head follows from its parts."""
    fields = {**transformer(config, mixers), **attention_biases(config), "q_lora_rank": config.optional("q_lora_rank")}
    for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        fields[name] = config.integer(name)
    fields.pop("head_dim", None)
    return fields


def _deepseek(config: Config) -> Fields:
    """DeepSeek: MLA, dense layers first, shared experts of the routed ones' width."""
    return {
        **_latent(config),
        **_experts(config),
        "intermediate_size": config.integer("intermediate_size"),
        "moe_layer_freq": config.integer("moe_layer_freq", default=1),
    }


def deepseek_moe(config: Config) -> Fields:
    """DeepSeekMoE, the first of them (deepseek-moe-16b): multi-head attention, softmax scores."""
    return {
        **transformer(config),
        **attention_biases(config),
        **_experts(config),
        "intermediate_size": config.integer("intermediate_size"),
        "moe_layer_freq": config.integer("moe_layer_freq", default=1),
        "router_score_function": "softmax",
    }


def deepseek_v2(config: Config) -> Fields:
    """DeepSeek-V2: softmax scores, groups without a correction bias."""
    refuse_partial_mlp_bias(config)
    return {**_deepseek(config), "router_score_function": "softmax"}


def deepseek_v3(config: Config) -> Fields:
    """DeepSeek-V3, Kimi-K2, Moonlight: sigmoid scores and a correction bias (topk_method noaux_tc)."""
    method = config.value("topk_method") or "noaux_tc"
    return {
        **_deepseek(config),
        "router_score_function": config.value("scoring_func") or "sigmoid",
        "router_correction_bias": method == "noaux_tc",
    }


def _sparse(config: Config) -> Fields:
    """Sparse attention in every layer: MLA and its indexer."""
    fields = _latent(config, ("indexed_attention",))
    return {**fields, **{name: config.integer(name) for name in INDEX_FIELDS}}


def deepseek_v32(config: Config) -> Fields:
    """DeepSeek-V3.2: DeepSeek-V3 with sparse attention."""
    return {
        **_sparse(config),
        **_experts(config),
        **layer_types_of_experts(config, first_dense=config.integer("first_k_dense_replace", default=3)),
        "intermediate_size": config.integer("intermediate_size"),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
    }


def glm_moe_dsa(config: Config) -> Fields:
    """GLM-5 and 5.1: DeepSeek-V3.2's layers; the indexer's rotary embedding is interleaved, and no Hadamard transform
    follows it. GLM-5.2's layers that share another's choice of keys are not counted."""
    every, pattern = config.integer("index_topk_freq", default=1), config.value("index_topk_pattern")
    kinds = config.items("indexer_types") or list(pattern if isinstance(pattern, (str, list)) else ())
    shared = next((index for index, kind in enumerate(kinds) if kind not in ("full", "F")), None)
    if every != 1 or shared is not None:
        given = f"index_topk_freq {every}" if shared is None else f"layer {shared}, {shown(kinds[shared])}"
        raise InputError(
            f"{config.where}.indexer_types: {given}: layers that share the keys another layer chose are not counted"
        )
    interleaved = config.flag("indexer_rope_interleave", True)
    return {**deepseek_v32(config), "indexer_rope_interleave": interleaved, "indexer_rotate_activation": False}


def glm4_moe(config: Config) -> Fields:
    """GLM-4.5 and 4.6: biases on queries, keys and values only; dense layers first; correction bias."""
    return {
        **transformer(config),
        **_experts(config),
        "attention_bias": config.flag("attention_bias"),
        "qk_norm": "head" if config.flag("use_qk_norm") else "none",
        "intermediate_size": config.integer("intermediate_size"),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
    }


def sarvam_moe(config: Config) -> Fields:
    """Sarvam-30B: GLM-4.5's layers; its own names for their fields too."""
    bias = config.flag("attention_bias") if config.written("attention_bias") else config.flag("use_qkv_bias")
    return {**glm4_moe(config), "attention_bias": bias}


def bailing_moe(config: Config) -> Fields:
    """Ling and Ring, first and second generation: what differs between them (norms on the heads of queries and keys,
    sigmoid scores with a correction bias, dense layers first) is in the config."""
    if config.flag("norm_head"):
        raise InputError(f"{config.where}.norm_head: true is refused: Megatron-Core's output head is not normalised")
    return {
        **transformer(config),
        **_experts(config),
        "attention_bias": config.flag("use_qkv_bias"),
        "attention_output_bias": config.flag("use_bias"),
        "qk_norm": "head" if config.flag("use_qk_norm") else "none",
        "intermediate_size": config.integer("intermediate_size"),
        "router_score_function": config.value("score_function") or "softmax",
        "router_correction_bias": config.flag("moe_router_enable_expert_bias"),
    }


def glm4v_moe(config: Config) -> Fields:
    """The text part of GLM-4.5V: GLM-4.5 without norms on queries and keys."""
    return {**glm4_moe(config), "qk_norm": "none"}


def glm4_moe_lite(config: Config) -> Fields:
    """GLM-4.7-Flash: MLA, GLM's experts, and the dense layers as they are listed (otherwise the first)."""
    return {
        **_latent(config),
        **_experts(config),
        **layer_types_of_experts(config, first_dense=1),
        "intermediate_size": config.integer("intermediate_size"),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
    }


def mistral4(config: Config) -> Fields:
    """Mistral Small 4: MLA, softmax scores, groups without a correction bias."""
    return {
        **_latent(config),
        **_experts(config),
        "intermediate_size": config.integer("intermediate_size", default=0),
        "router_score_function": "softmax",
    }


def dots1(config: Config) -> Fields:
    """dots.llm1: norms on the heads of queries and keys, a correction bias, windows from a layer on."""
    first = config.integer("max_window_layers", default=config.layers)
    return {
        **transformer(config),
        **attention_biases(config),
        **_experts(config),
        **windows(config, "sliding_attention", "sliding_window", lambda i: i >= first),
        "qk_norm": "head",
        "intermediate_size": config.integer("intermediate_size", default=0),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
    }


def solar_open(config: Config) -> Fields:
    """Solar Open: every layer MoE; biases on queries, keys and values only."""
    return {
        **transformer(config),
        **_experts(config),
        "first_k_dense_replace": 0,
        "attention_bias": config.flag("attention_bias"),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
    }
