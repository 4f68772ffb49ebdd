"""How many kernels a layer launches, and which of them CUDA graphs hold.

The host starts those that no graph holds one by one, which is host time; the driver keeps a node for each other one.
Graphs of `router` hold a MoE block's norm, router and what prepares its exchange; those of `attention` also all that
mixes a layer's tokens; `full_iteration` holds everything. Ignored: what replaying a graph takes, and that modules can
be captured in other combinations (`--cuda-graph-modules`).
"""

from moeopt.arithmetic import Number, ceil_div, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.layer_kind import LayerKind
from moeopt.problem.problem import Problem

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
ROUTER_LAUNCHES = 35
"""Of a MoE block's: norm, router, auxiliary loss and the counts that an exchange is prepared from. Taken as half, not
counted kernel by kernel; errors of published runs under graphs are smallest with 25 to 35."""
EXPERT_LAUNCHES, QUANTIZED_EXPERT_LAUNCHES = 6, 9
"""Launch-equivalents of one layer and micro-batch, forward and backward together; the last two for every local expert
(counts of kernels in eager Megatron-Core runs; their common price launch_ns is fitted)."""


def captures_attention(choices: Choices) -> bool:
    """Whether what mixes tokens runs inside graphs of layers."""
    return choices.cuda_graphs == "attention"


def captures_router(choices: Choices) -> bool:
    """Whether routers run inside graphs of layers."""
    return choices.cuda_graphs in ("router", "attention")


def moe_launches(problem: Problem, degrees: Degrees, choices: Choices, quantized: bool) -> Number:
    """Launch-equivalents of a MoE block, forward and backward."""
    each = QUANTIZED_EXPERT_LAUNCHES if quantized else EXPERT_LAUNCHES
    nccl = NCCL_DISPATCH_LAUNCHES if choices.dispatcher in ("alltoall", "allgather") else 0
    return ceil_div(problem.architecture.num_experts, degrees.ep) * each + (MOE_LAUNCHES + nccl)


def _mixer_launches(problem: Problem, degrees: Degrees, kind: LayerKind) -> Number:
    """Those of what mixes a layer's tokens."""
    architecture = problem.architecture
    attention = ATTENTION_LAUNCHES + (MLA_LAUNCHES if architecture.is_mla else 0)
    attention += SPARSE_LAUNCHES if architecture.has_indexer else 0
    mixers = {"attention": attention, "delta_net": DELTA_NET_LAUNCHES, "mamba": MAMBA_LAUNCHES, "none": 0}
    return where(degrees.tp > 1, TENSOR_PARALLEL_LAUNCHES, 0) + mixers[kind.mixer]


def launches(problem: Problem, degrees: Degrees, choices: Choices, kind: LayerKind, quantized: bool) -> Number:
    """Launch-equivalents of a layer, forward and backward. `quantized`: its experts compute in fewer than 16 bits."""
    blocks = {"dense": DENSE_LAUNCHES, "none": 0}
    block = moe_launches(problem, degrees, choices, quantized) if kind.ffn == "moe" else blocks[kind.ffn]
    return _mixer_launches(problem, degrees, kind) + block


def captured_launches(problem: Problem, degrees: Degrees, choices: Choices, kind: LayerKind, quantized: bool) -> Number:
    """Of these, the ones that CUDA graphs hold."""
    if choices.cuda_graphs == "full_iteration":
        return launches(problem, degrees, choices, kind, quantized)
    router = ROUTER_LAUNCHES if kind.ffn == "moe" and captures_router(choices) else 0
    return router + (_mixer_launches(problem, degrees, kind) if captures_attention(choices) else 0)
