"""Host (launch) time of a layer, and how it combines with GPU time.

Dropless routing reads token counts back in every MoE layer, so the host cannot run ahead: neither the sum nor the
maximum of the two fits published runs, the root of the sum of squares does best.
"""

import math

import numpy as np

from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div, is_column, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

GRAPH_PERCENT = {"none": 100, "router": 85, "attention": 55, "full_iteration": 0}
"""Host time left under CUDA graphs: eager; router and preprocess; these and attention; the whole iteration."""
ATTENTION_LAUNCHES, MLA_LAUNCHES, TENSOR_PARALLEL_LAUNCHES = 60, 30, 10
DELTA_NET_LAUNCHES = 90
"""A gated delta net in place of attention: some 35 kernels in both passes, most of them started from Python (counted in
its code, not in a run)."""
MAMBA_LAUNCHES = 75
"""A Mamba-2 layer: some 15 kernels forward and 60 backward (counted in its code, not in a run)."""
SPARSE_LAUNCHES = 120
"""What sparse attention launches beyond MLA: index projections, unfused rotary embeddings, choice of keys, its loss,
copies before the backward kernel (counted in its code, not in a run)."""
DENSE_LAUNCHES, MOE_LAUNCHES, NCCL_DISPATCH_LAUNCHES = 15, 70, 25
EXPERT_LAUNCHES, QUANTIZED_EXPERT_LAUNCHES = 6, 9
"""Launch-equivalents of one layer and micro-batch, forward and backward together; the last two for every local expert
(counts of kernels in eager Megatron-Core runs; their common price launch_ns is fitted)."""


def moe_launches(problem: Problem, degrees: Degrees, choices: Choices, rates: Rates) -> Number:
    """Launch-equivalents of a MoE block, forward and backward."""
    each = QUANTIZED_EXPERT_LAUNCHES if rates.format.quantized else EXPERT_LAUNCHES
    nccl = NCCL_DISPATCH_LAUNCHES if choices.dispatcher in ("alltoall", "allgather") else 0
    return ceil_div(problem.architecture.num_experts, degrees.ep) * each + (MOE_LAUNCHES + nccl)


def launches(problem: Problem, degrees: Degrees, choices: Choices, rates: Rates, kind: LayerKind) -> Number:
    """Launch-equivalents of a layer, forward and backward."""
    architecture = problem.architecture
    attention = ATTENTION_LAUNCHES + (MLA_LAUNCHES if architecture.is_mla else 0)
    attention += SPARSE_LAUNCHES if architecture.has_indexer else 0
    mixers = {"attention": attention, "delta_net": DELTA_NET_LAUNCHES, "mamba": MAMBA_LAUNCHES, "none": 0}
    tensor = where(degrees.tp > 1, TENSOR_PARALLEL_LAUNCHES, 0)
    blocks = {"dense": DENSE_LAUNCHES, "none": 0}
    block = moe_launches(problem, degrees, choices, rates) if kind.ffn == "moe" else blocks[kind.ffn]
    return tensor + mixers[kind.mixer] + block


def launched_ns(count: Number, problem: Problem, choices: Choices, rates: Rates, moe: bool) -> Number:
    """Host time of launch-equivalents in a layer. Halved where tokens are dropped and padded to capacity: no count is
    read back (assumed from the token-drop rows of Megatron-Bridge 25.09)."""
    each: int = getattr(rates.efficiency.launch_ns, problem.cluster.host)
    padded = moe and problem.workload.routing.capacity_factor is not None
    return ceil_div(count * (each * GRAPH_PERCENT[choices.cuda_graphs]), 200 if padded else 100)


def host_ns(problem: Problem, degrees: Degrees, choices: Choices, rates: Rates, kind: LayerKind) -> Number:
    """Host time of a layer, forward and backward, nothing recomputed."""
    count = launches(problem, degrees, choices, rates, kind)
    return launched_ns(count, problem, choices, rates, kind.ffn == "moe")


def exposed_host_ns(gpu_ns: Number, host: Number) -> Number:
    """What host time adds to a layer: sqrt(gpu^2 + host^2) - gpu, rounded up; integers and columns agree exactly."""
    if not is_column(host) and host == 0:
        return 0
    gpu, launch = gpu_ns * 1.0, host * 1.0
    squares = gpu * gpu + launch * launch
    if is_column(squares):
        return np.ceil(np.sqrt(squares)).astype(np.int64) - gpu_ns
    return math.ceil(math.sqrt(squares)) - gpu_ns
