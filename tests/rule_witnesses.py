"""For every legality rule: a layout that breaks it and nothing else, and what to change to mend it."""

from typing import Any, NamedTuple

from rule_problems import DELTA_NET, DENSE, HYBRID, MLA, SPARSE


class Witness(NamedTuple):
    """A problem, a layout that breaks one rule, and what to change (in the layout or the problem) to mend it."""

    rule: str
    problem: dict[str, Any]
    broken: dict[str, Any]
    mend: dict[str, Any]
    mend_problem: dict[str, Any] = {}  # noqa: RUF012


def arch(**changes: Any) -> dict[str, Any]:
    return {"architecture": changes}


def work(**changes: Any) -> dict[str, Any]:
    return {"workload": changes}


EP_OVERLAP = {"ep": 2, "overlap": {"ep_all_to_all": True}}
MTP2 = arch(num_nextn_predict_layers=2)
FP8 = work(precision="fp8")
NVFP4 = {
    **work(precision="nvfp4"),
    "cluster": {"compute_capability": "10.0", "peak_flops": {"bf16": 2250e12, "fp8": 4500e12, "fp4": 9000e12}},
}
LEARNED = {"position_embedding": "learned", "max_position_embeddings": 4096}
SEQ6K = work(sequence_length=6144)
MUON = work(optimizer="muon")
WITNESSES = (
    Witness("gpu_total_dense", {"gpus": 10}, {"tp": 4}, {"tp": 2}),
    Witness("gpu_total_expert", {"gpus": 48}, {"ep": 32}, {"ep": 16}),
    Witness("batch_by_dp", work(global_batch_size=100), {}, {"tp": 16}),
    Witness("heads_by_tp", {"gpus": 48, **arch(num_key_value_heads=1), **SEQ6K}, {"tp": 3}, {"tp": 2}),
    Witness(
        "kv_groups_by_tp",
        {"gpus": 48, **arch(num_attention_heads=48, num_key_value_heads=8), **SEQ6K},
        {"tp": 6},
        {"tp": 16},
    ),
    Witness(
        "qkv_width_by_tp",
        {"gpus": 48, **arch(num_attention_heads=12, num_key_value_heads=1), **SEQ6K},
        {"tp": 3},
        {},
        {**arch(num_attention_heads=12, num_key_value_heads=1, head_dim=48), **SEQ6K},
    ),
    Witness("linear_heads_by_tp_cp", arch(**DELTA_NET), {"tp": 4, "cp": 4}, {"cp": 2}),
    Witness("output_gate_without_mla", arch(**MLA, attention_output_gate=True), {}, {}, arch(**MLA)),
    Witness(
        "mtp_without_delta_net",
        arch(**DELTA_NET, num_nextn_predict_layers=1),
        {},
        {},
        arch(**{**DELTA_NET, "linear_attention_pattern": [1] * 15 + [0]}, num_nextn_predict_layers=1),
    ),
    Witness(
        "sparse_heads_by_tp", {"gpus": 48, **arch(**SPARSE, num_attention_heads=96), **SEQ6K}, {"tp": 2}, {"tp": 3}
    ),
    Witness("mamba_heads_by_tp", arch(**HYBRID), {"tp": 16}, {"tp": 8}),
    Witness("mamba_heads_by_tp_cp", arch(**{**HYBRID, "mamba_num_groups": 1}), {"cp": 64}, {"cp": 32}),
    Witness("hybrid_without_ep_overlap", arch(**HYBRID), EP_OVERLAP, {"overlap": {"ep_all_to_all": False}}),
    Witness("hybrid_without_fsdp", arch(**HYBRID), {"fsdp": "optim_grads_params"}, {"fsdp": "none"}),
    Witness("sparse_value_width", arch(**{**SPARSE, "kv_lora_rank": 256}), {}, {}, arch(**SPARSE)),
    Witness(
        "sparse_needs_hopper",
        {**arch(**SPARSE), "cluster": {"compute_capability": "8.0"}},
        {},
        {},
        {**arch(**SPARSE), "cluster": {"compute_capability": "9.0"}},
    ),
    Witness(
        "sparse_tp_needs_sequence_parallel",
        arch(**SPARSE, **DENSE),
        {"tp": 2, "sequence_parallel": False},
        {"sequence_parallel": True},
    ),
    Witness(
        "sparse_without_unfused",
        {**arch(**SPARSE), **work(attention_backend="unfused")},
        {},
        {},
        {**arch(**SPARSE), **work(attention_backend="fused")},
    ),
    Witness(
        "sparse_without_8_bit_recompute",
        {**arch(**SPARSE), **FP8},
        {"recompute": {"modules": ["mla_up_proj"]}},
        {"recompute": {"modules": ["core_attn"]}},
    ),
    Witness(
        "sparse_without_delayed_wgrad",
        arch(**SPARSE),
        {**EP_OVERLAP, "overlap": {"ep_all_to_all": True, "delay_wgrad": True}},
        EP_OVERLAP,
    ),
    Witness("sparse_without_attention_graph", arch(**SPARSE), {"cuda_graphs": "attention"}, {"cuda_graphs": "router"}),
    Witness("sparse_offload_modules", arch(**SPARSE), {"offload": ["core_attn"]}, {"offload": ["moe_act"]}),
    Witness("ep_needs_experts", arch(**DENSE), {"ep": 2}, {"ep": 1}),
    Witness("etp_needs_experts", arch(**DENSE), {"tp": 4, "etp": 2}, {"etp": 4}),
    Witness("experts_by_ep", {"gpus": 48}, {"ep": 24}, {"ep": 16}),
    Witness("expert_ffn_by_etp", {"gpus": 48}, {"ep": 8, "etp": 3}, {"etp": 2}),
    Witness("shared_expert_ffn_by_tp", arch(shared_expert_intermediate_size=2820), {"tp": 8}, {"tp": 4}),
    Witness("dense_ffn_by_tp", arch(intermediate_size=10948, first_k_dense_replace=1), {"tp": 8}, {"tp": 4}),
    Witness("moe_bias_needs_etp_1", arch(mlp_bias=True), {"etp": 2}, {"etp": 1}),
    Witness(
        "shared_experts_without_bias",
        arch(mlp_bias=True, shared_expert_intermediate_size=512),
        {},
        {},
        arch(mlp_bias=False, shared_expert_intermediate_size=512),
    ),
    Witness("router_group_topk", arch(n_group=8, topk_group=9), {}, {}, arch(n_group=8, topk_group=8)),
    Witness("sequence_by_cp", work(sequence_length=4098), {"cp": 2}, {"cp": 1}),
    Witness("sequence_by_cp_tp", work(sequence_length=4098), {"tp": 4}, {"tp": 2}),
    Witness("moe_tp_needs_sequence_parallel", {}, {"tp": 2, "sequence_parallel": False}, {"sequence_parallel": True}),
    Witness("tp_comm_overlap_needs_sequence_parallel", {}, {"overlap": {"tp_comm": True}}, {"tp": 2}),
    Witness("cp_needs_fused_attention", work(attention_backend="unfused"), {"cp": 2}, {"cp": 1}),
    Witness("cp_ring_without_windows_or_sinks", arch(attention_sinks=True), {"cp": 2}, {"cp": 1}),
    Witness("yarn_table_by_cp", {"gpus": 48, **arch(**MLA), **SEQ6K}, {"cp": 3}, {"cp": 2}),
    Witness("mtp_positions", arch(**LEARNED, num_nextn_predict_layers=1), {}, {}, arch(num_nextn_predict_layers=1)),
    Witness(
        "sequence_within_positions",
        arch(position_embedding="learned", max_position_embeddings=2048),
        {},
        {},
        arch(position_embedding="learned", max_position_embeddings=4096),
    ),
    Witness("vpp_needs_pp", {}, {"vpp": 2}, {"pp": 2}),
    Witness("interleave_group_size", {}, {"pp": 4, "vpp": 2, "interleave_group": 2}, {"interleave_group": 5}),
    Witness("interleave_group_rest", work(global_batch_size=96), {"pp": 4, "vpp": 2}, {"interleave_group": 6}),
    Witness("deepep_needs_expert_group", {}, {"dispatcher": "deepep"}, {"ep": 2}),
    Witness(
        "deepep_without_capacity",
        work(routing={"capacity_factor": 1.0}),
        {"ep": 2, "dispatcher": "deepep"},
        {"dispatcher": "alltoall"},
    ),
    Witness(
        "dispatcher_supports_gpu",
        {"cluster": {"compute_capability": "10.0", "host": "grace"}},
        {"ep": 2, "dispatcher": "deepep"},
        {"dispatcher": "hybridep"},
    ),
    Witness("ep_overlap_needs_ep", {}, {**EP_OVERLAP, "ep": 1}, {"ep": 2}),
    Witness("ep_overlap_needs_vpp", {}, {**EP_OVERLAP, "pp": 2}, {"vpp": 2}),
    Witness(
        "delay_wgrad_needs_ep_overlap",
        {},
        {"ep": 2, "overlap": {"delay_wgrad": True}},
        {"overlap": {"delay_wgrad": True, "ep_all_to_all": True}},
    ),
    Witness(
        "delay_wgrad_graph_without_biases",
        arch(attention_bias=True),
        {"ep": 2, "overlap": {"delay_wgrad": True, "ep_all_to_all": True}, "cuda_graphs": "attention"},
        {"cuda_graphs": "router"},
    ),
    Witness("dispatcher_sms_needs_flex", {}, {"ep": 2, "dispatcher_sms": 16}, {"dispatcher": "hybridep"}),
    Witness("deepep_even_sms", {}, {"ep": 2, "dispatcher": "deepep", "dispatcher_sms": 15}, {"dispatcher_sms": 16}),
    Witness("ep_overlap_dispatcher", {}, {**EP_OVERLAP, "dispatcher": "allgather"}, {"dispatcher": "deepep"}),
    Witness("ep_overlap_without_full_recompute", {}, {**EP_OVERLAP, "recompute": "full"}, {"recompute": "none"}),
    Witness(
        "ep_overlap_without_moe_recompute",
        {},
        {**EP_OVERLAP, "recompute": {"modules": ["moe"]}},
        {"recompute": {"modules": ["moe_act"]}},
    ),
    Witness("ep_overlap_one_mtp", MTP2, EP_OVERLAP, {}, arch(num_nextn_predict_layers=1)),
    Witness("mla_recompute_needs_mla", {}, {"recompute": {"modules": ["mla_up_proj"]}}, {}, arch(**MLA)),
    Witness(
        "mtp_full_recompute_one_layer",
        MTP2,
        {"recompute": {"granularity": "full", "num_layers": 2}},
        {"recompute": {"granularity": "full", "num_layers": 2, "method": "block"}},
    ),
    Witness(
        "optimizer_types_need_precision_aware",
        {},
        {"optimizer": {"moments": "bf16"}},
        {"optimizer": {"moments": "bf16", "precision_aware": True}},
    ),
    Witness(
        "precision_aware_needs_distributed_optimizer",
        {},
        {
            "optimizer": {"precision_aware": True},
            "distributed_optimizer": False,
            "overlap": {"param_gather": False},
        },
        {"distributed_optimizer": True},
    ),
    Witness(
        "offload_needs_precision_aware",
        {},
        {"optimizer": {"offload_fraction": 0.5}},
        {"optimizer": {"offload_fraction": 0.5, "precision_aware": True}},
    ),
    Witness(
        "instances_need_distributed_optimizer",
        {},
        {"optimizer": {"instances": 2}, "distributed_optimizer": False, "overlap": {"param_gather": False}},
        {"distributed_optimizer": True},
    ),
    Witness("mtp_projection_by_tp", arch(hidden_size=1020, num_nextn_predict_layers=1), {"tp": 8}, {"tp": 4}),
    Witness(
        "moe_act_recompute_needs_experts", arch(**DENSE), {"recompute": {"modules": ["moe_act"]}}, {"recompute": "none"}
    ),
    Witness(
        "offload_without_quantized_parameters",
        {**work(precision="mxfp8"), "cluster": {"compute_capability": "10.0"}},
        {"optimizer": {"offload_fraction": 0.5, "precision_aware": True}},
        {"optimizer": {"precision_aware": True}},
    ),
    Witness(
        "quantized_parameters_need_distributed_optimizer",
        {**work(precision="mxfp8"), "cluster": {"compute_capability": "10.0"}},
        {"distributed_optimizer": False, "overlap": {"param_gather": False}},
        {"distributed_optimizer": True},
    ),
    Witness(
        "precision_aware_without_nvfp4",
        NVFP4,
        {"optimizer": {"precision_aware": True}},
        {"optimizer": {"moments": "fp32"}},
    ),
    Witness(
        "fsdp_without_repeated_mtp",
        arch(num_nextn_predict_layers=1, mtp_use_repeated_layer=True),
        {"fsdp": "optim_grads"},
        {},
        arch(mtp_use_repeated_layer=False),
    ),
    Witness(
        "muon_without_precision_aware",
        MUON,
        {"optimizer": {"precision_aware": True}},
        {"optimizer": {"precision_aware": False}},
    ),
    Witness("muon_without_fsdp", MUON, {"fsdp": "optim"}, {"fsdp": "none"}),
    Witness("muon_without_instances", MUON, {"optimizer": {"instances": 2}}, {"optimizer": {"instances": 1}}),
    Witness("muon_without_fp16", work(optimizer="muon", precision="fp16"), {}, {}, MUON),
    Witness(
        "muon_without_nvfp4",
        {**NVFP4, **work(optimizer="muon", precision="nvfp4")},
        {},
        {},
        work(optimizer="adam", precision="nvfp4"),
    ),
    Witness("fsdp_without_nvfp4", NVFP4, {"fsdp": "optim"}, {"fsdp": "none"}),
    Witness(
        "fsdp_needs_distributed_optimizer",
        {},
        {"fsdp": "optim", "distributed_optimizer": False, "overlap": {"param_gather": False}},
        {"distributed_optimizer": True},
    ),
    Witness("fsdp_ep_overlap_needs_pp_1", {}, {**EP_OVERLAP, "fsdp": "optim", "pp": 2, "vpp": 2}, {"fsdp": "none"}),
    Witness(
        "fsdp_ep_overlap_graphs",
        {},
        {**EP_OVERLAP, "fsdp": "optim", "cuda_graphs": "attention"},
        {"cuda_graphs": "none"},
    ),
    Witness(
        "fsdp_double_buffer_without_ep_overlap",
        {},
        {**EP_OVERLAP, "fsdp": "optim_grads", "fsdp_double_buffer": True},
        {"fsdp_double_buffer": False},
    ),
    Witness("fsdp_double_buffer_needs_fsdp", {}, {"fsdp_double_buffer": True}, {"fsdp": "optim_grads"}),
    Witness("fsdp_without_fp8", FP8, {"fsdp": "optim_grads_params"}, {"fsdp": "optim_grads"}),
    Witness(
        "fsdp_without_optimizer_offload",
        {},
        {"fsdp": "optim", "optimizer": {"offload_fraction": 0.5, "precision_aware": True}},
        {"fsdp": "none"},
    ),
    Witness(
        "offload_attn_proj_needs_core_attn", {}, {"offload": ["attn_proj"]}, {"offload": ["attn_proj", "core_attn"]}
    ),
    Witness(
        "offload_without_moe_recompute",
        {},
        {"offload": ["moe_act"], "recompute": {"modules": ["moe"]}},
        {"recompute": {"modules": ["moe_act"]}},
    ),
    Witness(
        "offload_without_full_recompute", {}, {"offload": ["core_attn"], "recompute": "full"}, {"recompute": "none"}
    ),
    Witness("offload_experts_need_experts", arch(**DENSE), {"offload": ["moe_act"]}, {"offload": ["core_attn"]}),
    Witness(
        "offload_norms_without_graphs",
        {},
        {"offload": ["mlp_norm"], "cuda_graphs": "attention"},
        {"cuda_graphs": "none"},
    ),
    Witness(
        "offload_graphs_need_attention",
        {},
        {"offload": ["core_attn"], "cuda_graphs": "router"},
        {"cuda_graphs": "attention"},
    ),
    Witness("instances_by_dp_cp", {"gpus": 24}, {"tp": 4, "optimizer": {"instances": 8}}, {"tp": 1}),
    Witness("instances_by_edp", {"gpus": 24}, {"ep": 4, "optimizer": {"instances": 8}}, {"ep": 1}),
    Witness(
        "param_gather_overlap_needs_distributed_optimizer",
        {},
        {"distributed_optimizer": False},
        {"overlap": {"param_gather": False}},
    ),
    Witness(
        "param_gather_overlap_needs_grad_reduce_overlap",
        {},
        {"overlap": {"grad_reduce": False}},
        {"overlap": {"grad_reduce": True}},
    ),
    Witness(
        "partial_graph_without_full_recompute",
        {},
        {"cuda_graphs": "attention", "recompute": "full"},
        {"recompute": {"modules": ["moe_act"]}},
    ),
    Witness("router_graph_needs_experts", arch(**DENSE), {"cuda_graphs": "router"}, {"cuda_graphs": "attention"}),
    Witness(
        "router_graph_without_moe_recompute",
        {},
        {"cuda_graphs": "router", "recompute": {"modules": ["moe"]}},
        {"cuda_graphs": "attention"},
    ),
    Witness(
        "full_graph_needs_fixed_token_counts",
        {},
        {"cuda_graphs": "full_iteration"},
        {},
        work(routing={"capacity_factor": 1.0}),
    ),
    Witness(
        "full_graph_fused_experts",
        {},
        {"dispatcher": "hybridep", "cuda_graphs": "full_iteration", "etp": 2},
        {"etp": 1},
    ),
    Witness(
        "precision_needs_units",
        {**FP8, "cluster": {"peak_flops": {"bf16": 312e12}}},
        {},
        {},
        {"cluster": {"peak_flops": {"bf16": 989e12, "fp8": 1979e12}}},
    ),
    Witness(
        "bf16_layers_by_pp",
        {**FP8, **arch(num_layers_at_end_in_bf16=9)},
        {"pp": 2},
        {},
        arch(num_layers_at_end_in_bf16=8),
    ),
    Witness("precision_needs_blackwell", work(precision="mxfp8"), {}, {}, {"cluster": {"compute_capability": "10.0"}}),
    Witness(
        "grouped_gemm_needs_ampere",
        {"cluster": {"compute_capability": "7.0"}},
        {},
        {},
        {"cluster": {"compute_capability": "8.0"}},
    ),
    Witness("quantized_widths", {**FP8, **arch(hidden_size=1032)}, {}, {}, arch(hidden_size=1040)),
    Witness("quantized_widths_by_tp", {**FP8, **arch(shared_expert_intermediate_size=1056)}, {"tp": 4}, {"tp": 2}),
    Witness("quantized_widths_by_etp", {**FP8, **arch(moe_intermediate_size=1056)}, {"etp": 4}, {"etp": 2}),
    Witness("quantized_rows", work(precision="fp8", sequence_length=4100), {}, {"micro_batch_size": 2}),
    Witness("limit_ep", {"limits": {"ep": {"max": 8}}}, {"ep": 16}, {"ep": 8}),
    Witness("fix_tp", {"fix": {"tp": 2}}, {"tp": 4}, {"tp": 2}),
    Witness(
        "fix_dispatcher",
        {"fix": {"dispatcher": "deepep"}},
        {"ep": 2, "dispatcher": "alltoall"},
        {"dispatcher": "deepep"},
    ),
    Witness("pipeline_even_split", {"gpus": 48}, {"pp": 3}, {"pp": 4}),
    Witness("pipeline_stages", {}, {"pp": 4, "vpp": 2, "pipeline_layout": "Et*8|||t*8L"}, {"vpp": 1}),
    Witness("pipeline_embedding", {}, {"pp": 2, "pipeline_layout": "tEt*7|t*8L"}, {"pipeline_layout": "Et*8|t*8L"}),
    Witness("pipeline_loss", {}, {"pp": 2, "pipeline_layout": "Et*8|Lt*8"}, {"pipeline_layout": "Et*8|t*8L"}),
    Witness("pipeline_layers", {}, {"pp": 2, "pipeline_layout": "Et*8|t*7L"}, {"pipeline_layout": "Et*9|t*7L"}),
    Witness("pipeline_mtp_count", MTP2, {"pp": 2, "pipeline_layout": "Et*8|t*8mL"}, {"pipeline_layout": "Et*8|t*8mmL"}),
    Witness(
        "pipeline_mtp_after_layers",
        {"gpus": 48, **MTP2},
        {"pp": 3, "pipeline_layout": "Et*8|mm|t*8L"},
        {"pipeline_layout": "Et*8|t*8mm|L"},
    ),
    Witness(
        "pipeline_mtp_one_stage",
        {"gpus": 48, **MTP2},
        {"pp": 3, "pipeline_layout": "Et*8|t*8m|mL"},
        {"pipeline_layout": "Et*8|t*8|mmL"},
    ),
    Witness(
        "pipeline_mtp_last_chunk",
        MTP2,
        {"pp": 2, "vpp": 2, "pipeline_layout": "Et*8|t*8mm||L"},
        {"pipeline_layout": "Et*8|t*8||mmL"},
    ),
    Witness(
        "pipeline_mtp_first_rank", MTP2, {"pp": 2, "pipeline_layout": "Et*16mm|L"}, {"pipeline_layout": "Et*16|mmL"}
    ),
    Witness(
        "pipeline_mtp_kind",
        arch(num_nextn_predict_layers=1, intermediate_size=4096, moe_layer_freq=[1] * 15 + [0]),
        {"pp": 2, "pipeline_layout": "Et*16|mL"},
        {"pipeline_layout": "Et*15|tmL"},
    ),
    Witness(
        "pipeline_mtp_of_hybrid",
        arch(**HYBRID, num_nextn_predict_layers=1, mtp_hybrid_pattern="*E"),
        {"pp": 4, "pipeline_layout": "Et*5|t*5|t*6m|L"},
        {"pipeline_layout": "Et*5|t*5|t*5|tmL"},
    ),
    Witness(
        "recompute_layers_in_chunk",
        {},
        {"pp": 2, "recompute": {"granularity": "full", "method": "block", "num_layers": 9}},
        {"recompute": {"granularity": "full", "method": "block", "num_layers": 8}},
    ),
)
