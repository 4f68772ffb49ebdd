"""Megatron-FSDP and fine-grained activation offloading: what excludes what. Sources: Megatron-LM d98e8a6."""

from moeopt.accounting.fsdp import shards_parameters
from moeopt.frameworks.rules import Applies, Rule, requires
from moeopt.layout import Choices
from moeopt.problem.problem import Problem

_CONFIG = "megatron/core/transformer/transformer_config.py"
_ADAPTER = "megatron/core/distributed/fsdp/mcore_fsdp_adapter.py"
_INSIDE_EXPERTS = ("expert_fc1", "moe_act")


def _fsdp(_problem: Problem, choices: Choices) -> bool:
    return choices.fsdp != "none"


def _offloads(*modules: str) -> Applies:
    def applies(_problem: Problem, choices: Choices) -> bool:
        return any(module in choices.offload for module in modules) if modules else bool(choices.offload)

    return applies


FSDP = (
    requires(
        "fsdp_needs_distributed_optimizer",
        "Megatron-FSDP turns the distributed optimizer on, so a layout without it is not what runs",
        "fsdp with distributed_optimizer true",
        "megatron/training/arguments.py:1128-1135 (a warning, then it is switched on)",
        _fsdp,
        lambda _problem, choices: choices.distributed_optimizer,
        "never",
    ),
    requires(
        "fsdp_without_repeated_mtp",
        "what Megatron-FSDP gathers of one MTP module that serves every depth is not counted",
        "fsdp without mtp_use_repeated_layer",
        "moeopt: a unit would be gathered once a depth (megatron_fsdp.py), which no formula here says",
        _fsdp,
        lambda problem, _choices: not (problem.mtp_layers and problem.architecture.mtp_use_repeated_layer),
        "moeopt",
    ),
    requires(
        "fsdp_without_nvfp4",
        "Megatron-FSDP's buffers hold 8-bit tensors but no packed 4-bit ones",
        "fsdp without precision nvfp4",
        f"no line of megatron/core/distributed/fsdp/src names fp4 tensors; version 2 refuses them: {_ADAPTER}:676-677",
        _fsdp,
        lambda problem, _choices: problem.workload.precision != "nvfp4",
        "never",
    ),
    Rule(
        "fsdp_ep_overlap_needs_pp_1",
        "Megatron-FSDP runs the overlapped expert all-to-all without a pipeline only",
        ("pp",),
        lambda _problem, d, _: d.pp == 1,
        lambda _problem, d, choices: (
            f"fsdp {choices.fsdp} and overlap.ep_all_to_all with pp {d.pp}" + (", pp must be 1" if d.pp > 1 else "")
        ),
        "megatron/core/pipeline_parallel/combined_1f1b.py:206-214 (an overlapped pipeline is interleaved)",
        "run",
        lambda problem, choices: _fsdp(problem, choices) and choices.overlap.ep_all_to_all,
    ),
    requires(
        "fsdp_ep_overlap_graphs",
        "Megatron-FSDP with the overlapped expert all-to-all allows no CUDA graphs but one of the whole iteration",
        "fsdp and overlap.ep_all_to_all with cuda_graphs none or full_iteration",
        f"{_ADAPTER}:176-188",
        lambda problem, choices: _fsdp(problem, choices) and choices.overlap.ep_all_to_all,
        lambda _problem, choices: choices.cuda_graphs in ("none", "full_iteration"),
    ),
    requires(
        "fsdp_double_buffer_without_ep_overlap",
        "the overlapped expert all-to-all runs two layers at once, for which double buffers do not suffice",
        "fsdp_double_buffer without overlap.ep_all_to_all",
        f"{_ADAPTER}:177-181",
        lambda problem, choices: _fsdp(problem, choices) and choices.fsdp_double_buffer,
        lambda _problem, choices: not choices.overlap.ep_all_to_all,
    ),
    requires(
        "fsdp_double_buffer_needs_fsdp",
        "double buffers belong to Megatron-FSDP",
        "fsdp_double_buffer with fsdp other than none",
        "megatron/core/distributed/distributed_data_parallel_config.py: fsdp_double_buffer (DDP ignores it)",
        lambda _problem, choices: choices.fsdp_double_buffer,
        _fsdp,
        "never",
    ),
    requires(
        "fsdp_without_fp8",
        "what Transformer Engine caches of 16-bit parameters that Megatron-FSDP shards is not priced",
        "fsdp optim_grads_params without precision fp8",
        "moeopt: whether 8-bit copies of weights outlive the gathered ones is not read (transformer_engine/pytorch/"
        "module/linear.py: get_weight_workspace); mxfp8 keeps none",
        lambda _problem, choices: shards_parameters(choices),
        lambda problem, _choices: problem.workload.precision != "fp8",
        "moeopt",
    ),
    requires(
        "fsdp_without_optimizer_offload",
        "optimizer offload under Megatron-FSDP is not priced (Megatron-FSDP holds the main parameters itself)",
        "fsdp with optimizer.offload_fraction 0",
        "megatron/core/optimizer/__init__.py:1097-1162 builds it; no test of Megatron-LM runs the two together",
        _fsdp,
        lambda _problem, choices: choices.optimizer.offload_fraction == 0,
        "moeopt",
    ),
)

OFFLOAD = (
    requires(
        "offload_attn_proj_needs_core_attn",
        "the projection's input is the core's output: it can leave the GPU only with the core's tensors",
        "offload attn_proj with offload core_attn",
        f"{_CONFIG}:2149-2154",
        _offloads("attn_proj"),
        lambda _problem, choices: "core_attn" in choices.offload,
    ),
    requires(
        "offload_without_moe_recompute",
        "recomputing whole MoE blocks leaves nothing of the experts to offload",
        "offload expert_fc1 or moe_act without recompute module moe",
        f"{_CONFIG}:2166-2177",
        _offloads(*_INSIDE_EXPERTS),
        lambda _problem, choices: not choices.recompute.drops("moe"),
    ),
    requires(
        "offload_without_full_recompute",
        "full recompute keeps nothing but layer inputs, which offloading by module does not reach",
        "offload without recompute full",
        "docs/user-guide/features/fine_grained_activation_offloading.md: combines with fine-grained recomputation",
        _offloads(),
        lambda _problem, choices: choices.recompute.granularity != "full",
        "moeopt",
    ),
    requires(
        "offload_experts_need_experts",
        "expert_fc1 and moe_act are modules of routed experts",
        "offload expert_fc1 or moe_act with num_experts above 1",
        "megatron/core/transformer/moe/experts.py:254-262 (without experts nothing is offloaded)",
        _offloads(*_INSIDE_EXPERTS),
        lambda problem, _choices: problem.architecture.is_moe,
        "never",
    ),
    requires(
        "offload_norms_without_graphs",
        "norms at the edge of a captured part are not offloaded, whatever is asked",
        "offload attn_norm or mlp_norm with cuda_graphs none or full_iteration",
        "megatron/core/transformer/transformer_layer.py:1560-1598 (a warning, then it is switched off)",
        _offloads("attn_norm", "mlp_norm"),
        lambda _problem, choices: choices.cuda_graphs in ("none", "full_iteration"),
        "never",
    ),
    requires(
        "offload_graphs_need_attention",
        "with graphs of parts of a layer, offloading works where attention and router are captured",
        "offload with cuda_graphs none, attention or full_iteration",
        "docs/user-guide/features/fine_grained_activation_offloading.md: CUDA graph integration",
        _offloads(),
        lambda _problem, choices: choices.cuda_graphs != "router",
        "run",
    ),
)

SHARDING = (*FSDP, *OFFLOAD)
