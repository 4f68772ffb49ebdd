"""A Mamba-2 layer: projections, the scan, and the bytes of its memory-bound kernels.

The scan runs chunk by chunk (128 tokens) in kernels that stream through memory; its products are a thirtieth of its
projections'. Bytes, for each head and token, p its width, n the state's width, r heads a group, C = 128 (mamba-ssm
2.3.2, ops/triton/ssd_combined.py; 16-bit operands, states and products of B and C in 32):

    forward   16 p + 6 n / r + 16 + 16 p n / C +  8 C / r     convolved, steps, states and their passing, B C, output
    backward  44 p + 30 n / r + 48 + 40 p n / C + 24 C / r    all of it again, then gradients of everything

No kernel of it is measured but the convolution (aiconfigurator mamba2_perf: 0.73 of H100's memory bandwidth); the
rate is that of memory-bound kernels. Ignored: tails of sequences that 128 does not divide.
"""

from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.memory_bound import memory_ns
from moeopt.accounting.time.scan import Linears, head_exchange_ns
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number, ceil_div, maximum
from moeopt.layout import Degrees
from moeopt.problem.architecture import MAMBA_CHUNK, Architecture
from moeopt.problem.problem import Problem

EXCHANGES = 6
"""All-to-alls of one pass under context parallelism: five tensors one after the other, and the output
(megatron/core/ssm/mamba_context_parallel.py:159-211)."""


def linears(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Linears:
    """Its two linears."""
    into = ceil_div(architecture.mamba_projection_dim, degrees.tp)
    out = ceil_div(architecture.mamba_inner_dim, degrees.tp)
    return Linears(tokens.attention, architecture.hidden_size, into, out)


def memory_bytes(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Number:
    """Forward bytes around the scan: norm, residual and glue 10 T h; the convolution 4 bytes an element; the gated norm
    reads and writes the output, 4."""
    convolved = ceil_div(architecture.mamba_conv_dim, degrees.tp)
    inner = ceil_div(architecture.mamba_inner_dim, degrees.tp)
    return tokens.local * (10 * architecture.hidden_size) + tokens.attention * (4 * convolved + 4 * inner)


def scan_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> tuple[Number, Number]:
    """Forward and backward time of the scan. Under context parallelism a rank has every token of fewer heads."""
    a, tp = problem.architecture, degrees.tp
    width, state = a.mamba_head_dim, a.mamba_state_dim
    heads = tokens.attention * ceil_div(a.mamba_num_heads, tp)
    passing = ceil_div(width * state, MAMBA_CHUNK)
    every = problem.workload.sequence_length * degrees.micro_batch_size
    groups = every * ceil_div(a.mamba_num_groups, tp * degrees.cp)
    forward = heads * (16 * width + 16 + 16 * passing) + groups * (6 * state + 8 * MAMBA_CHUNK)
    backward = heads * (44 * width + 48 + 40 * passing) + groups * (30 * state + 24 * MAMBA_CHUNK)
    return memory_ns(forward, rates), memory_ns(backward, rates)


def exchange_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Context parallelism, one direction. Groups fewer than the ranks are copied for each."""
    a, tp = problem.architecture, degrees.tp
    groups = maximum(ceil_div(a.mamba_num_groups, tp), degrees.cp)
    heads, inner = ceil_div(a.mamba_num_heads, tp), ceil_div(a.mamba_inner_dim, tp)
    width = 3 * inner + 2 * groups * a.mamba_state_dim + heads
    return head_exchange_ns(problem, degrees, tokens, rates, width, EXCHANGES)
