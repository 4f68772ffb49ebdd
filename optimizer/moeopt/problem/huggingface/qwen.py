"""Qwen's Mixture-of-Experts families, and those that are built of their parts."""

from moeopt.errors import InputError
from moeopt.problem.huggingface.common import (
    Fields,
    attention_biases,
    layer_types_of_experts,
    listed_windows,
    qwen_windows,
    routing,
    transformer,
)
from moeopt.problem.huggingface.config import Config


def _sparse_step(config: Config) -> Fields:
    """Qwen: layer i is MoE when (i + 1) % decoder_sparse_step == 0 and it is not in mlp_only_layers."""
    step = config.integer("decoder_sparse_step", default=1)
    dense = config.items("mlp_only_layers")
    if step < 1:
        raise InputError(f"{config.where}.decoder_sparse_step: {step} is below 1")
    if step == 1 and not dense:
        return {"intermediate_size": config.integer("intermediate_size", default=0)}
    return {
        "intermediate_size": config.integer("intermediate_size"),
        "moe_layer_freq": config.pattern(lambda i: i not in dense and (i + 1) % step == 0),
    }


def _qwen_experts(config: Config) -> Fields:
    return {
        **_sparse_step(config),
        **routing(config),
        "num_experts": config.integer("num_experts", "num_local_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("moe_intermediate_size"),
    }


def qwen2_moe(config: Config) -> Fields:
    """Qwen1.5-MoE and Qwen2-57B: biases on queries, keys and values; gated shared experts."""
    return {
        **transformer(config),
        **_qwen_experts(config),
        **qwen_windows(config),
        "attention_bias": config.flag("qkv_bias", True),
        "shared_expert_intermediate_size": config.integer("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }


def qwen3_moe(config: Config) -> Fields:
    """Qwen3 MoE and Qwen3-Coder: norms on the heads of queries and keys, no shared expert."""
    return {
        **transformer(config),
        **_qwen_experts(config),
        **qwen_windows(config, every_layer=True),
        **attention_biases(config),
        "qk_norm": "head",
    }


def qwen3_vl_moe(config: Config) -> Fields:
    """The text part of Qwen3-VL and Qwen3-Omni (its thinker): Qwen3 MoE without windows."""
    return {**transformer(config), **_qwen_experts(config), **attention_biases(config), "qk_norm": "head"}


def mellum(config: Config) -> Fields:
    """Mellum 2: Qwen3 MoE's layers, with windows and dense layers as they are listed."""
    return {
        **transformer(config),
        **routing(config),
        **attention_biases(config),
        **listed_windows(config),
        **layer_types_of_experts(config, first_dense=0),
        "qk_norm": "head",
        "intermediate_size": config.integer("intermediate_size", default=0),
        "num_experts": config.integer("num_experts", "num_local_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("moe_intermediate_size"),
    }
