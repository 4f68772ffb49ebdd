"""Megatron-LM's arguments for types of gradients, Megatron-FSDP and activation offloading. Source: d98e8a6."""

from moeopt.writers.job import Job
from moeopt.writers.megatron.architecture import Flag
from moeopt.writers.shell import flag


def gradient_flags(job: Job) -> list[Flag]:
    """Types of the gradient buffers: fp32 by default with bf16 parameters, fp16 with fp16 (arguments.py:1193-1217)."""
    half, whole = job.problem.workload.precision == "fp16", job.layout.optimizer.main_grads == "fp32"
    if half == whole:
        return [flag("--accumulate-allreduce-grads-in-fp32" if whole else "--grad-reduce-in-bf16")]
    return []


def fsdp_flags(job: Job) -> list[Flag]:
    """Megatron-FSDP has options of its own for types: main gradients follow the parameters' type unless it is given."""
    layout, kept = job.layout, job.layout.optimizer
    if layout.fsdp == "none":
        return []
    return [
        flag("--use-megatron-fsdp"),
        flag("--data-parallel-sharding-strategy", layout.fsdp),
        flag("--megatron-fsdp-main-params-dtype", kept.main_params),
        flag("--megatron-fsdp-main-grads-dtype", kept.main_grads),
        flag("--megatron-fsdp-grad-comm-dtype", kept.main_grads),
        *([flag("--fsdp-double-buffer")] if layout.fsdp_double_buffer else []),
    ]


def offload_flags(job: Job) -> list[Flag]:
    """Fine-grained activation offloading; one graph of the iteration needs its copies bounded
    (transformer_config.py:2966-2975)."""
    if not job.layout.offload:
        return []
    flags = [flag("--fine-grained-activation-offloading"), flag("--offload-modules", *job.layout.offload)]
    if job.layout.cuda_graphs == "full_iteration":
        flags.append(flag("--fine-grained-offloading-max-inflight-offloads", 1))
    return flags
