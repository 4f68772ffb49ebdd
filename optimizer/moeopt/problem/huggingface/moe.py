"""Mixture-of-Experts families with grouped-query attention; Qwen's and DeepSeek's are beside this file."""

from moeopt.errors import InputError
from moeopt.problem.huggingface.common import (
    Fields,
    attention_biases,
    constants,
    layer_types_of_experts,
    refuse_partial_mlp_bias,
    routing,
    same_in_all,
    transformer,
    windows,
)
from moeopt.problem.huggingface.config import Config


def mixtral(config: Config) -> Fields:
    """Mixtral: every layer MoE; `intermediate_size` is an expert's."""
    return {
        **transformer(config),
        **windows(config, "sliding_attention", "sliding_window", lambda _: True),
        **routing(config, normalised=True),
        "num_experts": config.integer("num_local_experts", "num_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("intermediate_size"),
    }


def gpt_oss(config: Config) -> Fields:
    """gpt-oss: biases everywhere, a sink a head, every other layer with the sliding window (the first one has it)."""
    return {
        **transformer(config),
        **attention_biases(config, True),
        **windows(config, "sliding_attention", "sliding_window", lambda i: i % 2 == 0),
        **routing(config, normalised=True),
        "attention_sinks": True,
        "num_experts": config.integer("num_local_experts", "num_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok", "experts_per_token"),
        "moe_intermediate_size": config.integer("intermediate_size"),
        "mlp_bias": True,
        "router_bias": True,
    }


def olmoe(config: Config) -> Fields:
    """OLMoE: norms over all heads of queries and of keys together, as wide as the hidden size."""
    common = transformer(config)
    heads, width = common["num_attention_heads"], common.get("head_dim")
    if width is not None and width * heads != common["hidden_size"]:
        raise InputError(
            f"{config.where}.head_dim: {width} * num_attention_heads {heads} is not hidden_size "
            f"{common['hidden_size']}, the width of this family's norms on queries"
        )
    return {
        **common,
        **attention_biases(config),
        **routing(config),
        "qk_norm": "hidden",
        "num_experts": config.integer("num_experts", "num_local_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("intermediate_size"),
    }


def dbrx(config: Config) -> Fields:
    """DBRX: its own field names, LayerNorm without bias."""
    attention, ffn = config.inner("attn_config"), config.inner("ffn_config")
    if config.flag("tie_word_embeddings"):
        raise InputError(f"{config.where}.tie_word_embeddings: true is refused: this family never ties them")
    heads = config.integer("n_heads")
    return {
        "hidden_size": config.integer("d_model"),
        "num_hidden_layers": config.integer("n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": attention.integer("kv_n_heads"),
        "vocab_size": config.integer("vocab_size"),
        "max_position_embeddings": config.optional("max_seq_len"),
        **constants(config),
        **constants(attention),
        **routing(config, normalised=ffn.number("moe_normalize_expert_weights") == 1),
        "norm": "layernorm",
        "norm_bias": False,
        "num_experts": ffn.integer("moe_num_experts"),
        "num_experts_per_tok": ffn.integer("moe_top_k"),
        "moe_intermediate_size": ffn.integer("ffn_hidden_size"),
    }


def phimoe(config: Config) -> Fields:
    """Phi-3.5-MoE: LayerNorm with bias; biases on attention and head as the config says."""
    return {
        **mixtral(config),
        **attention_biases(config),
        **routing(config),
        "norm": "layernorm",
        "norm_bias": True,
        "lm_head_bias": config.flag("lm_head_bias"),
    }


def llama4_text(config: Config) -> Fields:
    """Llama 4's text part: one shared expert, chunked attention where a layer has rotary positions.

    Its norms on queries and keys have no weights, so they count for no parameter.
    """
    step = config.integer("interleave_moe_layer_step", default=1)
    if step < 1:
        raise InputError(f"{config.where}.interleave_moe_layer_step: {step} is below 1")
    listed = config.items("moe_layers") if config.given("moe_layers") else range(step - 1, config.layers, step)
    rotary = config.items("no_rope_layers", config.layers)
    every = config.integer("no_rope_layer_interval", default=4)
    expert = config.integer("intermediate_size")
    return {
        **transformer(config),
        **attention_biases(config),
        **windows(
            config,
            "chunked_attention",
            "attention_chunk_size",
            lambda i: bool(rotary[i]) if rotary else (i + 1) % every != 0,
        ),
        "intermediate_size": config.integer("intermediate_size_mlp"),
        "num_experts": config.integer("num_local_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": expert,
        "shared_expert_intermediate_size": expert,
        "moe_layer_freq": config.pattern(lambda i: i in listed),
        "router_score_function": "sigmoid",
    }


def minimax_m2(config: Config) -> Fields:
    """MiniMax-M2: norms over all heads of queries and of keys together; MTP under names of its own."""
    per_layer = (config.value("qk_norm_type") or "per_layer") == "per_layer"
    norm = ("hidden" if per_layer else "head") if config.flag("use_qk_norm", True) else "none"
    if any(kind != 1 for kind in config.items("attn_type_list")):
        raise InputError(f"{config.where}.attn_type_list: only softmax attention (1) is known of this family")
    mtp = config.integer("num_mtp_modules", "num_nextn_predict_layers", default=0)
    common, rotated = transformer(config), config.optional("rotary_dim")
    if rotated and common["partial_rotary_factor"] is None:
        common["partial_rotary_factor"] = rotated / config.integer("head_dim")
    return {
        **common,
        **routing(config, normalised=True),
        "qk_norm": norm,
        "num_experts": config.integer("num_local_experts", "num_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": config.integer("intermediate_size"),
        "shared_expert_intermediate_size": config.integer("shared_intermediate_size", default=0),
        "router_score_function": config.value("scoring_func") or "sigmoid",
        "router_correction_bias": config.flag("use_routing_bias", True),
        "num_nextn_predict_layers": mtp if config.flag("use_mtp", True) else 0,
    }


def ernie4_5_moe(config: Config) -> Fields:
    """ERNIE 4.5: MoE from a first to a last layer at an interval, shared experts, a correction bias."""
    expert, layers = config.integer("moe_intermediate_size"), config.layers
    first = config.integer("moe_layer_start_index", default=0)
    last = config.integer("moe_layer_end_index", default=-1)
    last = layers - 1 if last < 0 else last
    interval = config.integer("moe_layer_interval", default=1)
    if interval < 1:
        raise InputError(f"{config.where}.moe_layer_interval: {interval} is below 1")
    if config.flag("use_bias"):
        raise InputError(
            f"{config.where}.use_bias: true is refused: whether the routed experts have biases then differs between "
            "versions of transformers, and no published config has it"
        )
    return {
        **transformer(config),
        **routing(config, normalised=True),
        "tie_word_embeddings": config.flag("tie_word_embeddings", True),
        "intermediate_size": config.integer("intermediate_size"),
        "num_experts": config.integer("moe_num_experts"),
        "num_experts_per_tok": config.integer("moe_k"),
        "moe_intermediate_size": expert,
        "shared_expert_intermediate_size": config.integer("moe_num_shared_experts", default=0) * expert,
        "moe_layer_freq": config.pattern(lambda i: (i + 1) % interval == 0 and first <= i <= last),
        "router_correction_bias": True,
        "num_nextn_predict_layers": config.integer("num_nextn_predict_layers", default=0),
    }


def hunyuan_moe(config: Config) -> Fields:
    """Hunyuan-A13B: every layer MoE, one shared expert of the routed ones' width, norms on query and key heads. What
    may differ between layers is read where it does not."""
    expert = config.integer("intermediate_size")
    for name, needed in (("moe_intermediate_size", expert), ("num_shared_expert", 1)):
        if config.given(name) and same_in_all(config, name) != needed:
            raise InputError(
                f"{config.where}.{name}: {same_in_all(config, name)} is refused: this family's modules have {needed}"
            )
    return {
        **transformer(config),
        **attention_biases(config),
        **routing(config, normalised=True),
        "qk_norm": "head",
        "num_experts": same_in_all(config, "num_experts", "num_local_experts"),
        "num_experts_per_tok": same_in_all(config, "moe_topk", "num_experts_per_tok"),
        "moe_intermediate_size": expert,
        "shared_expert_intermediate_size": expert,
    }


def _sigmoid_experts(config: Config) -> Fields:
    """Dense layers beside routed experts with a correction bias and shared ones of their width; norms on query and key
    heads."""
    expert = config.integer("moe_intermediate_size")
    return {
        "qk_norm": "head",
        "intermediate_size": config.integer("intermediate_size"),
        "num_experts": config.integer("num_experts", "num_local_experts"),
        "num_experts_per_tok": config.integer("num_experts_per_tok"),
        "moe_intermediate_size": expert,
        "shared_expert_intermediate_size": config.integer("num_shared_experts") * expert,
        "router_score_function": "sigmoid",
        "router_correction_bias": True,
        "num_nextn_predict_layers": config.integer("num_nextn_predict_layers", default=0),
    }


def hy_v3(config: Config) -> Fields:
    """Hunyuan 3: dense layers as they are listed (otherwise the first)."""
    refuse_partial_mlp_bias(config)
    return {
        **transformer(config),
        **attention_biases(config),
        **routing(config, normalised=True),
        **layer_types_of_experts(config, first_dense=1),
        **_sigmoid_experts(config),
        "routed_scaling_factor": config.number("router_scaling_factor"),
    }


def exaone_moe(config: Config) -> Fields:
    """K-EXAONE: windows on all but every N-th layer, dense layers first."""
    every = config.integer("sliding_window_pattern", default=0)
    return {
        **transformer(config),
        **windows(config, "sliding_attention", "sliding_window", lambda i: every > 0 and (i + 1) % every != 0),
        **routing(config),
        **layer_types_of_experts(config, config.integer("first_k_dense_replace", default=0)),
        **_sigmoid_experts(config),
        "n_group": config.optional("n_group"),
        "topk_group": config.optional("topk_group"),
    }
