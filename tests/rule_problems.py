"""Small problems for the tests of the legality rules: one architecture, one cluster, changed field by field."""

from typing import Any

from moeopt.layout import Layout
from moeopt.problem.base import read_fields
from moeopt.problem.problem import Problem

ARCHITECTURE: dict[str, Any] = {
    "name": "tiny",
    "hidden_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "head_dim": 64,
    "vocab_size": 32000,
    "num_experts": 64,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 2048,
}
CLUSTER: dict[str, Any] = {
    "gpu": "H100",
    "memory": "80GiB",
    "memory_bandwidth_bytes_per_s": 3.35e12,
    "peak_flops": {"bf16": 989e12, "fp8": 1979e12},
    "nvlink_bandwidth_bytes_per_s": 450e9,
    "nvlink_latency_ns": "5us",
    "network_bandwidth_bytes_per_s": 50e9,
    "network_latency_ns": "10us",
}
WORKLOAD: dict[str, Any] = {"sequence_length": 4096, "global_batch_size": 1920}
"""1920 = 2^7 * 15 divides by every data-parallel size of the tests."""
DENSE: dict[str, Any] = {
    "num_experts": 0,
    "num_experts_per_tok": 0,
    "moe_intermediate_size": 0,
    "intermediate_size": 4096,
}
DELTA_NET: dict[str, Any] = {
    "linear_attention_pattern": [1] * 16,
    "linear_num_key_heads": 8,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_conv_kernel_dim": 4,
}
MLA: dict[str, Any] = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}

HYBRID: dict[str, Any] = {
    "hybrid_pattern": "MEM*" * 4,
    "mamba_num_heads": 32,
    "mamba_head_dim": 64,
    "mamba_num_groups": 8,
    "mamba_state_dim": 128,
    "position_embedding": "none",
}
SPARSE: dict[str, Any] = {**MLA, "q_lora_rank": 512, "index_topk": 2048, "index_n_heads": 16, "index_head_dim": 128}


def problem(
    architecture: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    workload: dict[str, Any] | None = None,
    **fields: Any,
) -> Problem:
    """The base problem with some fields changed."""
    values = {
        "gpus": 64,
        **fields,
        "architecture": {**ARCHITECTURE, **(architecture or {})},
        "cluster": {**CLUSTER, **(cluster or {})},
        "workload": {**WORKLOAD, **(workload or {})},
    }
    return read_fields(Problem, values, "problem")


def layout(**fields: Any) -> Layout:
    """A layout, all defaults but the given fields; etp 1 unless given."""
    return read_fields(Layout, {"etp": 1, **fields}, "layout")
