"""The architecture's dimensions as a flavor of torchtitan v0.2.2 (models/{deepseek_v3,qwen3,moe})."""

from typing import Any

from moeopt.problem.architecture import Architecture


def family(architecture: Architecture) -> str:
    """torchtitan's architecture of this kind: MLA, or ordinary attention."""
    return "deepseek_v3" if architecture.is_mla else "qwen3"


def flavor(architecture: Architecture) -> str:
    """A Python module that registers the dimensions as flavor "moeopt" of their family."""
    a = architecture
    if a.is_mla:
        names, fields = ("deepseek_v3", "deepseekv3_args", "DeepSeekV3ModelArgs"), _latent(a)
    else:
        names, fields = ("qwen3", "qwen3_args", "Qwen3ModelArgs"), _grouped(a)
    lines = [f"    {name}={value!r}," for name, value in fields.items()]
    if a.is_moe:
        lines += ["    moe_args=MoEArgs(", *(f"        {name}={value!r}," for name, value in _moe(a).items()), "    ),"]
    folder, table, kind = names
    return "\n".join(
        [
            '"""Dimensions as a torchtitan flavor. Written by moeopt; constants not given here are defaults."""',
            "",
            f"from torchtitan.models.{folder} import {table}",
            f"from torchtitan.models.{folder}.model.args import {kind}",
            *(["from torchtitan.models.moe import MoEArgs"] if a.is_moe else []),
            "",
            f'{table}["moeopt"] = {kind}(',
            *lines,
            ")",
            "",
        ]
    )


def _latent(a: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": a.vocab_size,
        "dim": a.hidden_size,
        "inter_dim": a.intermediate_size or a.moe_intermediate_size,
        "moe_inter_dim": a.moe_intermediate_size,
        "n_layers": a.num_hidden_layers,
        "n_dense_layers": sum(kind.ffn == "dense" for kind in a.layers),
        "n_heads": a.num_attention_heads,
        "q_lora_rank": a.q_lora_rank or 0,
        "kv_lora_rank": a.kv_lora_rank,
        "qk_nope_head_dim": a.qk_nope_head_dim,
        "qk_rope_head_dim": a.qk_rope_head_dim,
        "v_head_dim": a.v_head_dim,
        "attn_type": "sdpa",
        **_constants(a),
        **_yarn(a),
    }


def _constants(a: Architecture) -> dict[str, Any]:
    given = {"norm_eps": a.rms_norm_eps, "rope_theta": a.rope_theta}
    return {name: value for name, value in given.items() if value is not None}


def _yarn(a: Architecture) -> dict[str, Any]:
    """Factor 1 is plain rotary embedding; torchtitan's own default is 40."""
    scaling = a.rope_scaling
    if scaling is None:
        return {"rope_factor": 1.0}
    given = {
        "rope_factor": scaling.factor or 1.0,
        "original_seq_len": scaling.original_max_position_embeddings,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "mscale": scaling.mscale,
    }
    return {name: value for name, value in given.items() if value is not None}


def _grouped(a: Architecture) -> dict[str, Any]:
    return {
        "vocab_size": a.vocab_size,
        "dim": a.hidden_size,
        "n_layers": a.num_hidden_layers,
        "n_heads": a.num_attention_heads,
        "n_kv_heads": a.num_key_value_heads,
        "head_dim": a.head_dim,
        "hidden_dim": a.intermediate_size or a.moe_intermediate_size,
        "qk_norm": a.qk_norm == "head",
        "enable_weight_tying": a.tie_word_embeddings,
        "moe_enabled": a.is_moe,
        "moe_inter_dim": a.moe_intermediate_size or 1,
        **_constants(a),
    }


def _moe(a: Architecture) -> dict[str, Any]:
    weights = {"route_norm": a.norm_topk_prob, "route_scale": a.routed_scaling_factor}
    return {
        **{name: value for name, value in weights.items() if value is not None},
        "num_experts": a.num_experts,
        "num_shared_experts": a.shared_expert_intermediate_size // a.moe_intermediate_size,
        "top_k": a.num_experts_per_tok,
        "score_func": a.router_score_function,
        "num_expert_groups": a.n_group,
        "num_limited_groups": a.topk_group,
        "load_balance_coeff": 1e-3 if a.router_correction_bias else None,
        "score_before_experts": False,
    }
