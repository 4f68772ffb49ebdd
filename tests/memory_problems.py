"""Architectures, problems and degrees that the memory tests share."""

from typing import Any

from moeopt.layout import Degrees
from moeopt.problem.architecture import Architecture
from moeopt.problem.cluster import Cluster, PeakFlops
from moeopt.problem.problem import Problem
from moeopt.problem.workload import Workload

MIB = 2**20
DEEPSEEK_V3 = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "vocab_size": 129280,
    "intermediate_size": 18432,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "shared_expert_intermediate_size": 2048,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
}
QWEN3_30B = {
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "qk_norm": "head",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
}
LLAMA3_70B = {
    "hidden_size": 8192,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "intermediate_size": 28672,
}


def problem(architecture: dict[str, Any], **workload: Any) -> Problem:
    """A problem on GPUs of compute capability 9.0."""
    cluster = Cluster(
        gpu="test",
        memory=80 * 2**30,
        memory_bandwidth_bytes_per_s=3e12,
        peak_flops=PeakFlops(bf16=1e15),
        nvlink_bandwidth_bytes_per_s=4.5e11,
        nvlink_latency_ns=1000,
        network_bandwidth_bytes_per_s=5e10,
        network_latency_ns=1000,
    )
    return Problem(architecture=Architecture(**architecture), cluster=cluster, gpus=1, workload=Workload(**workload))


def degrees(**given: int) -> Degrees:
    """Degrees that are 1 unless given; etp follows tp as in Megatron."""
    names = ("tp", "pp", "cp", "dp", "ep", "edp", "vpp", "micro_batch_size", "num_microbatches", "interleave_group")
    values = {name: given.get(name, 1) for name in names}
    return Degrees(**values, etp=given.get("etp", values["tp"]))
