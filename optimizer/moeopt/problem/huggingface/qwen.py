"""Qwen's Mixture-of-Experts families, and those that are built of their parts."""

from moeopt.errors import InputError
from moeopt.problem.dimensions import DELTA_NET_FIELDS
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


def _delta_nets(config: Config) -> Fields:
    """Gated delta nets on the layers that are listed as linear attention (otherwise all but every
    `full_attention_interval`-th), gated softmax attention on the others, norms by one plus their weight."""
    listed = config.items("layer_types", config.layers)
    every = config.integer("full_attention_interval", default=4)
    if every < 1:
        raise InputError(f"{config.where}.full_attention_interval: {every} is below 1")
    fields: Fields = {name: config.integer(name) for name in DELTA_NET_FIELDS}
    linear = config.pattern(lambda i: listed[i] == "linear_attention" if listed else (i + 1) % every != 0)
    return {
        **fields,
        "linear_attention_pattern": linear,
        "attention_output_gate": True,
        "zero_centered_norm": True,
        "qk_norm": "head",
    }


def qwen3_next(config: Config) -> Fields:
    """Qwen3-Next: gated delta nets on three of four layers, a gated shared expert."""
    return {
        **transformer(config, ("linear_attention",)),
        **_qwen_experts(config),
        **attention_biases(config),
        **_delta_nets(config),
        "shared_expert_intermediate_size": config.integer("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }


def qwen3_5_moe(config: Config) -> Fields:
    """The text part of Qwen3.5's MoE models: Qwen3-Next with experts in every layer, weights of the chosen adding up to
    one."""
    fields = {**qwen3_next(config), **routing(config, normalised=True)}
    return {**fields, "moe_layer_freq": 1, "num_nextn_predict_layers": _mtp_layers(config)}


def _mtp_layers(config: Config) -> int:
    return config.integer("mtp_num_hidden_layers", "num_nextn_predict_layers", default=0)


def qwen3_5(config: Config) -> Fields:
    """The text part of Qwen3.5's dense models."""
    return {
        **transformer(config, ("linear_attention",)),
        **attention_biases(config),
        **_delta_nets(config),
        "intermediate_size": config.integer("intermediate_size"),
        "num_nextn_predict_layers": _mtp_layers(config),
    }


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
