"""torchtitan's model arguments from the Python file that a job imports: parsed for its literals, never imported.

Source: torchtitan v0.2.2, torchtitan/models/{deepseek_v3,qwen3}/model/args.py, torchtitan/models/moe.
"""

import ast
from typing import Any

from moeopt.errors import InputError

_DIMENSIONS = {
    "vocab_size": "vocab_size",
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_dim": "intermediate_size",
    "inter_dim": "intermediate_size",
    "n_dense_layers": "first_k_dense_replace",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "enable_weight_tying": "tie_word_embeddings",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
}
_YARN = {
    "rope_factor": "factor",
    "original_seq_len": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "mscale": "mscale",
}


def read_flavour(text: str, flavour: str, where: str) -> dict[str, Any] | None:
    """Fields of the architecture that `table["flavour"] = Arguments(…)` registers; None where nothing does."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: {error}") from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _registers(node.targets[0], flavour):
            return _fields(_keywords(node.value))
    return None


def _registers(target: ast.expr, flavour: str) -> bool:
    return (
        isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant) and target.slice.value == flavour
    )


def _keywords(call: ast.Call) -> dict[str, Any]:
    """Keyword arguments that are literals, or calls of literals."""
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Call):
            found[str(keyword.arg)] = _keywords(keyword.value)
        elif isinstance(keyword.value, ast.Constant):
            found[str(keyword.arg)] = keyword.value.value
    return found


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    fields = {ours: given[theirs] for theirs, ours in _DIMENSIONS.items() if theirs in given}
    fields["q_lora_rank"] = given.get("q_lora_rank") or None
    if "kv_lora_rank" in fields:
        fields["num_key_value_heads"] = fields.get("num_attention_heads")
        fields["rope_scaling"] = _yarn(given)
    fields["qk_norm"] = "head" if given.get("qk_norm") else "none"
    moe = given.get("moe_args")
    if isinstance(moe, dict) and given.get("moe_enabled", True):
        width = given.get("moe_inter_dim", 0)
        fields |= {
            "num_experts": moe.get("num_experts", 8),
            "num_experts_per_tok": moe.get("top_k", 1),
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": moe.get("num_shared_experts", 1) * width,
            "router_score_function": moe.get("score_func", "sigmoid"),
            "norm_topk_prob": moe.get("route_norm"),
            "routed_scaling_factor": moe.get("route_scale"),
            "n_group": moe.get("num_expert_groups"),
            "topk_group": moe.get("num_limited_groups"),
            "router_correction_bias": moe.get("load_balance_coeff", 1e-3) is not None,
        }
    return fields


def _yarn(given: dict[str, Any]) -> dict[str, Any] | None:
    """MLA's scaling, where the file gives a factor above 1; one mscale stands for both of DeepSeek's."""
    if given.get("rope_factor", 1) == 1:
        return None
    found = {ours: given[theirs] for theirs, ours in _YARN.items() if theirs in given}
    return {"rope_type": "yarn", **found, "mscale_all_dim": found.get("mscale")}
