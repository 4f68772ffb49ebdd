"""Environment variables of a Megatron-Core run, each with its reason.

Sources: Megatron-LM d98e8a6, megatron/training/arguments.py:1453-1479 (CUDA_DEVICE_MAX_CONNECTIONS),
docs/user-guide/features/cuda_graph.md (NCCL_GRAPH_REGISTER), megatron/core/transformer/moe/README.md and
Megatron-Bridge 067f987, docs/performance-guide.md (the allocator, NVLS, SM margins).
"""

from moeopt.frameworks.megatron_core.precision import compute_capability
from moeopt.writers.job import Job


def environment(job: Job) -> dict[str, tuple[str, str]]:
    """Variable -> (value, why)."""
    layout = job.layout
    found = {
        "CUDA_DEVICE_MAX_CONNECTIONS": _connections(job),
        "PYTORCH_CUDA_ALLOC_CONF": (
            "expandable_segments:True",
            "segments that grow keep fragmentation small: the memory figures assume it",
        ),
        "TORCH_NCCL_AVOID_RECORD_STREAMS": ("1", "communication buffers are freed in time, not at the next sync"),
        "NCCL_NVLS_ENABLE": ("0", "NVLink SHARP's buffers are not in the memory figures"),
        "OMP_NUM_THREADS": ("1", "one process a GPU: no more threads than cores"),
    }
    if layout.cuda_graphs != "none":
        if layout.cuda_graphs == "full_iteration" and job.problem.architecture.is_moe:
            found["NVTE_CUTEDSL_FUSED_GROUPED_MLP"] = (
                "1",
                "Transformer Engine's fused experts, which a graph can hold",
            )
        found["NCCL_GRAPH_REGISTER"] = ("0", "registered buffers in CUDA graphs exclude expandable segments")
    if layout.offload:
        found["NVTE_CPU_OFFLOAD_V1"] = ("1", "activation offloading under Transformer Engine >= 2.10 needs it")
    if layout.overlap.ep_all_to_all:
        found["NVTE_FWD_LAYERNORM_SM_MARGIN"] = ("20", "leaves SMs for the expert all-to-all that runs beside norms")
        found["NVTE_BWD_LAYERNORM_SM_MARGIN"] = ("20", "the same in the backward pass")
    if layout.dispatcher == "hybridep":
        domain = min(layout.ep, job.problem.cluster.ranks_per_domain)
        found["NUM_OF_HYBRID_EP_RANKS_PER_NVLINK_DOMAIN"] = (str(domain), "min(ep, GPUs of an NVLink domain)")
        multi_node = job.problem.cluster.nvlink_domain_size > job.problem.cluster.gpus_per_node
        found["USE_MNNVL"] = ("1" if multi_node else "0", "whether one NVLink domain spans several nodes")
    return found


def _connections(job: Job) -> tuple[str, str]:
    layout, capability = job.layout, compute_capability(job.problem)
    if layout.fsdp != "none":
        return "8", "Megatron-FSDP refuses 1: its gathers and reductions run beside the kernels"
    if layout.overlap.ep_all_to_all:
        return "32", "the overlapped expert all-to-all needs many hardware queues"
    if capability is not None and capability[0] >= 10:
        return "32", "from compute capability 10 on the order of kernels no longer needs one queue"
    if layout.tp > 1 or layout.cp > 1:
        return "1", "tp or cp above 1 before compute capability 10: Megatron-LM refuses anything else"
    return "1", "communication is queued in the order of the program, ahead of the kernels it hides under"
