"""How many kernels a layer launches: what host time is made of, and what CUDA graphs hold a node of for each."""

from moeopt.arithmetic import Number, ceil_div, where
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


def moe_launches(problem: Problem, degrees: Degrees, choices: Choices, quantized: bool) -> Number:
    """Launch-equivalents of a MoE block, forward and backward."""
    each = QUANTIZED_EXPERT_LAUNCHES if quantized else EXPERT_LAUNCHES
    nccl = NCCL_DISPATCH_LAUNCHES if choices.dispatcher in ("alltoall", "allgather") else 0
    return ceil_div(problem.architecture.num_experts, degrees.ep) * each + (MOE_LAUNCHES + nccl)


def launches(problem: Problem, degrees: Degrees, choices: Choices, kind: LayerKind, quantized: bool) -> Number:
    """Launch-equivalents of a layer, forward and backward. `quantized`: its experts compute in fewer than 16 bits."""
    architecture = problem.architecture
    attention = ATTENTION_LAUNCHES + (MLA_LAUNCHES if architecture.is_mla else 0)
    attention += SPARSE_LAUNCHES if architecture.has_indexer else 0
    mixers = {"attention": attention, "delta_net": DELTA_NET_LAUNCHES, "mamba": MAMBA_LAUNCHES, "none": 0}
    tensor = where(degrees.tp > 1, TENSOR_PARALLEL_LAUNCHES, 0)
    blocks = {"dense": DENSE_LAUNCHES, "none": 0}
    block = moe_launches(problem, degrees, choices, quantized) if kind.ffn == "moe" else blocks[kind.ffn]
    return tensor + mixers[kind.mixer] + block
