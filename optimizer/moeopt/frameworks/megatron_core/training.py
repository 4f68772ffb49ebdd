"""Recompute, optimizer, gradient overlap and CUDA graphs: what excludes what. Sources: Megatron-LM d98e8a6."""

from moeopt.arithmetic import both
from moeopt.frameworks.rules import Rule, remainder, requires
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

_CONFIG = "megatron/core/transformer/transformer_config.py"
_OPTIMIZER = "megatron/core/optimizer/optimizer_config.py"


def _narrow_types(_problem: Problem, choices: Choices) -> bool:
    """Not main gradients: --grad-reduce-in-bf16 makes their buffer bf16 under any optimizer (arguments.py:1204-1217),
    which is what a layout's `main_grads: bf16` launches."""
    return not (choices.optimizer.moments == choices.optimizer.main_params == "fp32")


def _full(_problem: Problem, choices: Choices) -> bool:
    return choices.recompute.granularity == "full"


def _partial_graph(_problem: Problem, choices: Choices) -> bool:
    return choices.cuda_graphs in ("router", "attention")


def _experts_offloaded(choices: Choices) -> list[str]:
    return [module for module in ("expert_fc1", "moe_act") if module in choices.offload]


def _fused_sentence(problem: Problem, degrees: Degrees, choices: Choices) -> str:
    offloaded = _experts_offloaded(choices)
    wrong = [
        *(["etp must be 1"] if degrees.etp > 1 else []),
        *([] if problem.architecture.gated else ["experts must be gated"]),
        *([f"{' and '.join(offloaded)} must stay"] if offloaded else []),
    ]
    gated = str(problem.architecture.gated).lower()
    text = f"cuda_graphs full_iteration without capacity_factor, etp {degrees.etp}, gated {gated}"
    return ", ".join([text, *wrong])


RECOMPUTE = (
    requires(
        "mla_recompute_needs_mla",
        "recompute module mla_up_proj exists only in multi-head latent attention",
        "recompute module mla_up_proj with kv_lora_rank given",
        f"{_CONFIG}:1969-1973",
        lambda _problem, choices: choices.recompute.drops("mla_up_proj"),
        lambda problem, _choices: problem.architecture.is_mla,
    ),
    requires(
        "moe_act_recompute_needs_experts",
        "recompute module moe_act exists only in grouped experts",
        "recompute module moe_act with num_experts above 1",
        f"{_CONFIG}:1964-1967 (needs --moe-grouped-gemm)",
        lambda _problem, choices: choices.recompute.drops("moe_act"),
        lambda problem, _choices: problem.architecture.is_moe,
    ),
    Rule(
        "mtp_full_recompute_one_layer",
        "uniform full recompute of an MTP module works on one layer at a time",
        (),
        lambda _problem, _d, choices: choices.recompute.num_layers == 1,
        lambda _problem, _d, choices: (
            f"recompute full, uniform, num_layers {choices.recompute.num_layers} with MTP, num_layers must be 1"
        ),
        "megatron/core/transformer/multi_token_prediction.py:1621-1627 (raised in the first forward pass)",
        "run",
        lambda problem, choices: (
            _full(problem, choices) and choices.recompute.method == "uniform" and problem.mtp_layers > 0
        ),
    ),
)

OPTIMIZER = (
    requires(
        "optimizer_types_need_precision_aware",
        "moments or main parameters below fp32 need the precision-aware optimizer",
        "optimizer types below fp32 with optimizer.precision_aware true",
        f"{_OPTIMIZER}:468-480",
        _narrow_types,
        lambda _problem, choices: choices.optimizer.precision_aware,
    ),
    requires(
        "precision_aware_needs_distributed_optimizer",
        "the precision-aware optimizer is a distributed one",
        "optimizer.precision_aware with distributed_optimizer true",
        "megatron/core/optimizer/__init__.py:1057-1060",
        lambda _problem, choices: choices.optimizer.precision_aware,
        lambda _problem, choices: choices.distributed_optimizer,
    ),
    requires(
        "offload_needs_precision_aware",
        "keeping optimizer state in host memory needs the precision-aware optimizer",
        "optimizer.offload_fraction above 0 with optimizer.precision_aware true",
        "megatron/training/arguments.py:1883-1888",
        lambda _problem, choices: choices.optimizer.offload_fraction > 0,
        lambda _problem, choices: choices.optimizer.precision_aware,
    ),
    requires(
        "precision_aware_without_nvfp4",
        "the precision-aware optimizer holds no master weights of packed parameters",
        "optimizer.precision_aware without precision nvfp4",
        "megatron/core/optimizer/distrib_optimizer.py:405-452: neither a shard of an nvfp4 parameter nor its master "
        "weight is made then (optimizer_config.py:407-414: no fp8 recipe, so the optimizer itself is to hold it)",
        lambda _problem, choices: choices.optimizer.precision_aware,
        lambda problem, _choices: problem.workload.precision != "nvfp4",
    ),
    requires(
        "offload_without_quantized_parameters",
        "quantised parameters that are gathered as such exclude an optimizer in host memory",
        "optimizer.offload_fraction above 0 without precision mxfp8, nvfp4 or fp8_param_gather",
        "megatron/training/arguments.py:1889-1892 (--fp8-param-gather, which mxfp8 launches use); for nvfp4 see "
        "precision_aware_without_nvfp4",
        lambda _problem, choices: choices.optimizer.offload_fraction > 0,
        lambda problem, _choices: not problem.workload.keeps_parameters,
    ),
    requires(
        "quantized_parameters_need_distributed_optimizer",
        "quantised parameters are gathered by the distributed optimizer",
        "precision mxfp8, nvfp4 or fp8_param_gather with distributed_optimizer true",
        "megatron/training/arguments.py:1095-1097 (--fp8-param-gather, which mxfp8 launches use); "
        "megatron/core/distributed/param_and_grad_buffer.py:1181-1190 (packed nvfp4 parameters)",
        lambda problem, _choices: problem.workload.keeps_parameters,
        lambda _problem, choices: choices.distributed_optimizer,
    ),
    requires(
        "instances_need_distributed_optimizer",
        "several distributed-optimizer instances need the distributed optimizer",
        "optimizer.instances above 1 with distributed_optimizer true",
        "megatron/core/distributed/distributed_data_parallel.py:357-360",
        lambda _problem, choices: choices.optimizer.instances > 1,
        lambda _problem, choices: choices.distributed_optimizer,
    ),
    Rule(
        "instances_by_dp_cp",
        "distributed-optimizer instances split the dp * cp ranks evenly",
        ("cp", "dp"),
        lambda _problem, d, choices: (d.dp * d.cp) % choices.optimizer.instances == 0,
        lambda _problem, d, choices: remainder(
            f"(dp {d.dp} * cp {d.cp})",
            d.dp * d.cp,
            f"optimizer.instances {choices.optimizer.instances}",
            choices.optimizer.instances,
        ),
        "megatron/core/parallel_state.py:922-926",
        "launch",
        lambda _problem, choices: choices.optimizer.instances > 1,
    ),
    Rule(
        "instances_by_edp",
        "distributed-optimizer instances split the expert data-parallel ranks evenly",
        ("edp",),
        lambda _problem, d, choices: d.edp % choices.optimizer.instances == 0,
        lambda _problem, d, choices: remainder(
            f"edp {d.edp}",
            d.edp,
            f"optimizer.instances {choices.optimizer.instances}",
            choices.optimizer.instances,
        ),
        "megatron/core/parallel_state.py:1447-1452",
        "launch",
        lambda _problem, choices: choices.optimizer.instances > 1,
    ),
)

OVERLAP = (
    requires(
        "param_gather_overlap_needs_distributed_optimizer",
        "overlapping the parameter all-gather needs the distributed optimizer, which is what gathers",
        "overlap.param_gather with distributed_optimizer true",
        "megatron/training/arguments.py:1024-1027",
        lambda _problem, choices: choices.overlap.param_gather,
        lambda _problem, choices: choices.distributed_optimizer,
    ),
    requires(
        "param_gather_overlap_needs_grad_reduce_overlap",
        "overlapping the parameter all-gather needs the gradient reduction overlapped too",
        "overlap.param_gather with overlap.grad_reduce true",
        "megatron/training/arguments.py:1028-1029",
        lambda _problem, choices: choices.overlap.param_gather,
        lambda _problem, choices: choices.overlap.grad_reduce,
    ),
)

CUDA_GRAPHS = (
    requires(
        "partial_graph_without_full_recompute",
        "graphs of parts of a layer exclude full recompute",
        "cuda_graphs router or attention without recompute full",
        f"{_CONFIG}:2855-2859",
        _partial_graph,
        lambda problem, choices: not _full(problem, choices),
    ),
    requires(
        "router_graph_needs_experts",
        "a router can be captured only where there is one",
        "cuda_graphs router with num_experts above 1",
        f"{_CONFIG}:2826-2830",
        lambda _problem, choices: choices.cuda_graphs == "router",
        lambda problem, _choices: problem.architecture.has_router,
    ),
    requires(
        "router_graph_without_moe_recompute",
        "a captured router excludes recomputing the whole MoE block around it",
        "cuda_graphs router without recompute module moe",
        f"{_CONFIG}:2860-2869",
        lambda _problem, choices: choices.cuda_graphs == "router",
        lambda _problem, choices: not choices.recompute.drops("moe"),
    ),
    Rule(
        "full_graph_needs_fixed_token_counts",
        "one graph of the whole iteration needs expert buffers of a fixed size: a capacity factor, or hybridep's",
        (),
        lambda problem, _d, choices: (
            problem.workload.routing.capacity_factor is not None or choices.dispatcher == "hybridep"
        ),
        lambda problem, _d, choices: (
            f"cuda_graphs full_iteration with dispatcher {choices.dispatcher} and routing.capacity_factor "
            f"{problem.workload.routing.capacity_factor}: needs a capacity_factor or hybridep"
        ),
        "docs/user-guide/features/cuda_graph.md:161-180, "
        "megatron/core/transformer/transformer_config.py:1868-1882 (--moe-expert-rank-capacity-factor)",
        "run",
        lambda problem, choices: choices.cuda_graphs == "full_iteration" and problem.architecture.is_moe,
    ),
    Rule(
        "full_graph_fused_experts",
        "without a capacity factor one graph of the whole iteration needs fused experts: gated, whole, kept on the GPU",
        ("etp",),
        lambda problem, d, choices: both(d.etp == 1, problem.architecture.gated, not _experts_offloaded(choices)),
        _fused_sentence,
        "megatron/core/transformer/moe/experts.py:286-290, 382-456 (--use-transformer-engine-op-fuser)",
        "launch",
        lambda problem, choices: (
            choices.cuda_graphs == "full_iteration"
            and problem.architecture.is_moe
            and problem.workload.routing.capacity_factor is None
        ),
    ),
)

TRAINING = (*RECOMPUTE, *OPTIMIZER, *OVERLAP, *CUDA_GRAPHS)
