"""Hybrids of Mamba-2 layers, attention, dense blocks and experts: Nemotron-H, Nemotron 3 Nano and Super."""

from moeopt.errors import InputError
from moeopt.problem.architecture import MAMBA_CONV
from moeopt.problem.base import shown
from moeopt.problem.huggingface.common import Fields, constants, refuse_partial_mlp_bias, routing
from moeopt.problem.huggingface.config import Config

_SYMBOLS = {
    "mamba": "M",
    "linear_attention": "M",
    "attention": "*",
    "full_attention": "*",
    "mlp": "-",
    "moe": "E",
}
"""A layer's symbol by its word; transformers 5 has renamed two."""


def _pattern(config: Config) -> str:
    """The layers, from the pattern or from the list of words."""
    text = config.value("hybrid_override_pattern")
    if isinstance(text, str) and text:
        return text
    words = config.items("layers_block_type")
    for index, word in enumerate(words):
        if word not in _SYMBOLS:
            raise InputError(
                f"{config.where}.layers_block_type: entry {index}, {shown(word)}, is none of {', '.join(_SYMBOLS)}"
            )
    if not words:
        raise InputError(f"{config.where}.hybrid_override_pattern: missing, and so is layers_block_type")
    return "".join(_SYMBOLS[word] for word in words)


def _experts(config: Config) -> Fields:
    refuse_partial_mlp_bias(config)
    return {
        **routing(config),
        "num_experts": config.integer("n_routed_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("moe_intermediate_size"),
        "moe_latent_size": config.integer("moe_latent_size", default=0),
        "shared_expert_intermediate_size": config.integer("n_shared_experts", default=1)
        and config.integer("moe_shared_expert_intermediate_size"),
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
        "n_group": config.optional("n_group"),
        "topk_group": config.optional("topk_group"),
    }


def nemotron_h(config: Config) -> Fields:
    """Nemotron-H (dense), Nemotron 3 Nano and Super (with experts): no positions, no biases but the convolution's, the
    square of ReLU. Its embeddings are never tied, whatever the config says."""
    if config.integer("conv_kernel", default=MAMBA_CONV) != MAMBA_CONV:
        raise InputError(f"{config.where}.conv_kernel: Megatron-Core's Mamba layers have {MAMBA_CONV} taps")
    if config.flag("use_bias"):
        raise InputError(f"{config.where}.use_bias: true is refused: Megatron-Core's Mamba layers have no such bias")
    pattern = _pattern(config)
    heads = config.integer("num_attention_heads")
    fields: Fields = {
        "hidden_size": config.integer("hidden_size"),
        "num_hidden_layers": len(pattern),
        "hybrid_pattern": pattern,
        "num_attention_heads": heads,
        "num_key_value_heads": config.integer("num_key_value_heads", default=heads),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.optional("max_position_embeddings"),
        "position_embedding": "none",
        "rms_norm_eps": constants(config)["rms_norm_eps"] or config.number("layer_norm_epsilon"),
        "mamba_num_heads": config.integer("mamba_num_heads"),
        "mamba_head_dim": config.integer("mamba_head_dim"),
        "mamba_num_groups": config.integer("n_groups"),
        "mamba_state_dim": config.integer("ssm_state_size"),
        "gated": False,
        "squared_relu": True,
        "mlp_bias": config.flag("mlp_bias"),
    }
    if config.given("head_dim") or config.given("attention_head_dim"):
        fields["head_dim"] = config.integer("head_dim", "attention_head_dim")
    if "-" in pattern:
        fields["intermediate_size"] = config.integer("intermediate_size")
    return {**fields, **(_experts(config) if "E" in pattern else {}), **_modules(config)}


def _modules(config: Config) -> Fields:
    """MTP modules, of which one serves every depth unless the config says otherwise (Megatron-Bridge 067f987,
    nemotron_h_bridge.py:274-330)."""
    depths = config.integer("num_nextn_predict_layers", default=0)
    if not depths:
        return {}
    pattern = config.value("mtp_hybrid_override_pattern")
    if not isinstance(pattern, str) or not pattern:
        raise InputError(
            f"{config.where}.mtp_hybrid_override_pattern: missing, and num_nextn_predict_layers {depths} needs it"
        )
    return {
        "num_nextn_predict_layers": depths,
        "mtp_hybrid_pattern": pattern,
        "mtp_use_repeated_layer": config.flag("mtp_use_repeated_layer", True),
    }
