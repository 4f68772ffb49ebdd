"""The problem whose decisions the tests free."""

from typing import Any

from moeopt.problem.problem import Problem

FEW: dict[str, Any] = {
    **{"tp": 1, "pp": 1, "cp": 1, "etp": 1, "micro_batch_size": 1},
    **{"dispatcher": "alltoall", "recompute": "none", "overlap": {"ep_all_to_all": False}},
}
"""Decisions that leave a handful of layouts."""


def tiny(**fields: Any) -> Problem:
    """Four layers with experts on two GPUs."""
    architecture = {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 1000,
        "intermediate_size": 512,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 256,
        "first_k_dense_replace": 1,
        "shared_expert_intermediate_size": 256,
    }
    given = {"sequence_length": 2048, "global_batch_size": 8, **fields.pop("workload", {})}
    return Problem(**{"architecture": architecture, "cluster": "h100-sxm", "gpus": 2, "workload": given, **fields})
