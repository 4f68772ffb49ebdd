"""Reads what Megatron-Core itself built (tests/data/megatron_*.json) into the objects of the package."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from moeopt.layout import Degrees
from moeopt.pipeline import PipelineLayout
from moeopt.problem.architecture import Architecture
from moeopt.problem.cluster import Cluster, PeakFlops
from moeopt.problem.problem import Problem
from moeopt.problem.workload import Workload

DATA = Path(__file__).parent / "data"
CLUSTER = Cluster(
    gpu="any",
    memory=80 * 2**30,
    memory_bandwidth_bytes_per_s=1e12,
    peak_flops=PeakFlops(bf16=1e15),
    nvlink_bandwidth_bytes_per_s=1e11,
    nvlink_latency_ns=1000,
    network_bandwidth_bytes_per_s=1e10,
    network_latency_ns=1000,
)


@cache
def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return content


def architecture(name: str) -> Architecture:
    """From the arguments of a TransformerConfig; what is not given has that class's default."""
    given = read("megatron_rank_parameters")["architectures"][name]
    bias = given.get("add_bias_linear", True)
    norm = "rmsnorm" if given.get("normalization") == "RMSNorm" else "layernorm"
    fields = {
        "name": name,
        "hidden_size": given["hidden_size"],
        "num_hidden_layers": given["num_layers"],
        "num_attention_heads": given["num_attention_heads"],
        "num_key_value_heads": given.get("num_query_groups"),
        "head_dim": given.get("kv_channels"),
        "vocab_size": given["vocab"],
        "tie_word_embeddings": given["tied"],
        "norm": norm,
        "attention_bias": bias,
        "attention_output_bias": bias,
        "mlp_bias": bias,
        "router_bias": bias,
        "gated": given.get("gated_linear_unit", False),
        "intermediate_size": given["ffn_hidden_size"],
        "num_experts": given["num_moe_experts"],
        "num_experts_per_tok": given["moe_router_topk"],
        "moe_intermediate_size": given["moe_ffn_hidden_size"],
        "shared_expert_intermediate_size": given.get("moe_shared_expert_intermediate_size", 0),
        "moe_layer_freq": given.get("moe_layer_freq", 1),
        "router_correction_bias": given.get("moe_router_enable_expert_bias", False),
        "num_nextn_predict_layers": given.get("mtp_num_layers", 0),
    }
    if given.get("multi_latent_attention"):
        fields |= {
            "q_lora_rank": given["q_lora_rank"],
            "kv_lora_rank": given["kv_lora_rank"],
            "qk_nope_head_dim": given["qk_head_dim"],
            "qk_rope_head_dim": given["qk_pos_emb_head_dim"],
            "v_head_dim": given["v_head_dim"],
        }
    else:
        fields["qk_norm"] = given.get("qk_layernorm", False)
    return Architecture.model_validate(fields)


def problem(row: dict[str, Any]) -> Problem:
    """The vocabulary is padded to 128 * tp, or left as it is where the row says so (there tp divides it)."""
    exact = row.get("vocabulary") == "exact"
    return Problem(
        architecture=architecture(row["architecture"]),
        cluster=CLUSTER,
        gpus=row["gpus"],
        workload=Workload(make_vocab_size_divisible_by=1 if exact else 128),
    )


def degrees(row: dict[str, Any]) -> Degrees:
    given = row["layout"]
    tp, pp, cp, ep = (given.get(name, 1) for name in ("tp", "pp", "cp", "ep"))
    etp = given.get("etp", tp)
    vpp = len(pipeline(row).chunks) // pp
    return Degrees(
        tp=tp,
        pp=pp,
        cp=cp,
        dp=row["gpus"] // (tp * pp * cp),
        ep=ep,
        etp=etp,
        edp=row["gpus"] // (etp * ep * pp),
        vpp=vpp,
        micro_batch_size=1,
        num_microbatches=1,
        interleave_group=pp,
    )


def pipeline(row: dict[str, Any]) -> PipelineLayout:
    """The layers of every chunk, from any of Megatron's four ways to say it (transformer_config.py:2295-2415)."""
    given, arch = row["layout"], architecture(row["architecture"])
    pp, vpp, layers = given.get("pp", 1), given.get("vpp", 1), arch.num_hidden_layers
    mtp = arch.num_nextn_predict_layers
    if "pp_layout" in given:
        return PipelineLayout.parse(given["pp_layout"], pp)
    ends = {"first": 0, "last": -1}
    named = {index: given[end] for end, index in ends.items() if end in given}
    if named:
        counts = [(layers - sum(named.values())) // (pp - len(named))] * pp
        for index, count in named.items():
            counts[index] = count
        return PipelineLayout.from_counts(pp, counts, mtp)
    embedding, loss = bool(given.get("acc_embed")), bool(given.get("acc_loss"))
    counts = [(layers + embedding + loss) // (pp * vpp)] * (pp * vpp)
    counts[0] -= embedding
    counts[-1] -= loss
    return PipelineLayout.from_counts(pp, counts, mtp)
