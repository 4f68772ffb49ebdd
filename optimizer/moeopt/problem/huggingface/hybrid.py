"""Hybrids of Mamba-2 layers, attention, dense blocks and experts: Nemotron-H, Nemotron 3 Nano and Super."""

from moeopt.errors import InputError
from moeopt.problem.architecture import MAMBA_CONV
from moeopt.problem.base import shown
from moeopt.problem.huggingface.common import (
    Fields,
    attention_biases,
    check_activation,
    constants,
    refuse_partial_mlp_bias,
    routing,
)
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
_LAYERS, _MODULE = "hybrid_override_pattern", "mtp_hybrid_override_pattern"
_MODULE_DEFAULT = "*E"
"""An MTP module where the config names none (transformers 5, NemotronHConfig)."""


def _pattern(config: Config) -> str:
    """The layers, from the list of words or, without one, from the pattern."""
    found = _listed(config, "layers_block_type") or _listed(config, "layer_types") or _drawn(config, _LAYERS)
    if not found:
        raise InputError(f"{config.where}.{_LAYERS}: missing, and so is layers_block_type")
    return found


def _listed(config: Config, name: str) -> str:
    """Symbols of a list of words."""
    words = config.items(name)
    for index, word in enumerate(words):
        if word not in _SYMBOLS:
            raise InputError(f"{config.where}.{name}: entry {index}, {shown(word)}, is none of {', '.join(_SYMBOLS)}")
    return "".join(_SYMBOLS[word] for word in words)


def _drawn(config: Config, name: str) -> str:
    """Symbols as they are written."""
    text = config.value(name)
    if text is not None and not isinstance(text, str):
        raise InputError(f"{config.where}.{name}: {shown(text)} is no pattern of {', '.join(_SYMBOLS.values())}")
    return text or ""


def _experts(config: Config) -> Fields:
    refuse_partial_mlp_bias(config)
    return {
        **routing(config),
        "num_experts": config.integer("n_routed_experts", "num_local_experts"),
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
    _refuse_other_mixers(config)
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
        "mamba_num_groups": config.integer("n_groups", "mamba_n_groups"),
        "mamba_state_dim": config.integer("ssm_state_size"),
        "gated": False,
        "squared_relu": True,
        "mlp_bias": config.flag("mlp_bias"),
        **attention_biases(config),
    }
    if config.given("head_dim") or config.given("attention_head_dim"):
        fields["head_dim"] = config.integer("head_dim", "attention_head_dim")
    if "-" in pattern:
        fields["intermediate_size"] = config.integer("intermediate_size")
    return {**fields, **(_experts(config) if "E" in pattern else {}), **_modules(config)}


def _refuse_other_mixers(config: Config) -> None:
    """Raise InputError for what Megatron-Core's Mamba layers and dense blocks have not."""
    if config.integer("conv_kernel", "mamba_d_conv", default=MAMBA_CONV) != MAMBA_CONV:
        raise InputError(f"{config.where}.conv_kernel: Megatron-Core's Mamba layers have {MAMBA_CONV} taps")
    for name in ("use_bias", "mamba_proj_bias"):
        if config.flag(name):
            raise InputError(f"{config.where}.{name}: true is refused: Megatron-Core's Mamba layers have no such bias")
    for name in ("use_conv_bias", "mamba_conv_bias"):
        if not config.flag(name, True):
            raise InputError(f"{config.where}.{name}: false is refused: Megatron-Core's convolutions have a bias")
    check_activation(config, "mlp_hidden_act", ("relu2",))


def _modules(config: Config) -> Fields:
    """MTP modules, of which one serves every depth unless the config says otherwise (Megatron-Bridge 067f987,
    nemotron_h_bridge.py:274-330). A list that says what is the default anyway leaves the word to the pattern."""
    depths = config.integer("num_nextn_predict_layers", default=0)
    if not depths:
        return {}
    listed, drawn = _listed(config, "mtp_layers_block_type") or _MODULE_DEFAULT, _drawn(config, _MODULE)
    return {
        "num_nextn_predict_layers": depths,
        "mtp_hybrid_pattern": drawn if drawn and listed == _MODULE_DEFAULT else listed,
        "mtp_use_repeated_layer": config.flag("mtp_use_repeated_layer", True),
    }
