"""The attention block: projections, the core, and the bytes of its memory-bound kernels."""

from moeopt.accounting.time.efficiency import Rates, exact
from moeopt.accounting.time.gemm import Products, product
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Degrees
from moeopt.problem.architecture import Architecture
from moeopt.problem.problem import Problem

HALF_SPEED_SEQUENCE = 1250
"""Tokens at which the core reaches half its long-sequence rate: eta(s) = eta s / (s + 1250). Forward and backward
together speed up so between 4K and 16K or 32K in training kernels (cuDNN's MLA on Hopper and Blackwell, arXiv
2603.07685 table 9; SimuMax's GQA on B200), and so do aiconfigurator's prefill kernels on H100 at every length from 1K
to 16K, within 3 %. Its B200 kernels start slower (2,200). With context parallelism s is a ring step's: partial outputs
are merged."""
MLA_SPEEDUP = exact(1.3)
"""192/128-wide heads against 128-wide GQA: cuDNN tables of the Megatron-Core report (0.56-0.65 forward at 4K)."""
NARROW_HEAD_SLOWDOWN = exact(0.7)
"""Heads of 64: half the matrix work for each exponential. aiconfigurator's prefill kernels from 4K to 16K: 0.80-0.83 on
H100, 0.65 on B200, 0.71-0.77 on B300; one value for all."""


def local_heads(architecture: Architecture, degrees: Degrees) -> tuple[Number, Number]:
    """Query heads and key/value groups on one GPU."""
    groups = architecture.num_attention_heads if architecture.is_mla else architecture.num_key_value_heads
    return ceil_div(architecture.num_attention_heads, degrees.tp), ceil_div(groups, degrees.tp)


def up_projections(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Products:
    """MLA's two up-projections (what recompute module mla_up_proj repeats); none without MLA."""
    if architecture.kv_lora_rank is None:
        return Products()
    heads, _ = local_heads(architecture, degrees)
    query = architecture.q_lora_rank or architecture.hidden_size
    keys_values = heads * (architecture.qk_nope_head_dim + architecture.v_head_dim)
    queries = product(tokens.attention, heads * architecture.qk_head_dim, query)
    return queries + product(tokens.attention, keys_values, architecture.kv_lora_rank)


def projections(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Products:
    """All linear layers of the block. MLA's down-projections are replicated over tp and see sequence-parallel rows
    (megatron/core/transformer/multi_latent_attention.py, TELinear "duplicated")."""
    heads, groups = local_heads(architecture, degrees)
    hidden, wide = architecture.hidden_size, architecture.value_head_dim
    out = product(tokens.attention, hidden, heads * wide)
    if architecture.kv_lora_rank is not None:
        down = (architecture.q_lora_rank or 0) + architecture.kv_lora_rank + architecture.qk_rope_head_dim
        return up_projections(architecture, tokens, degrees) + product(tokens.local, down, hidden) + out
    qkv = query_key_value(architecture, heads, groups) + gate_width(architecture, heads)
    return product(tokens.attention, qkv, hidden) + out


def gate_width(architecture: Architecture, heads: Number) -> Number:
    """Elements of the output gate a token on one GPU; none without one."""
    return heads * architecture.value_head_dim if architecture.attention_output_gate else 0


def gemm_inputs(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> tuple[Number, Number]:
    """Elements that fp8 recipes quantise: inputs of the linears, and gradients of their outputs."""
    heads, groups = local_heads(architecture, degrees)
    hidden, wide = architecture.hidden_size, architecture.value_head_dim
    ranks = (architecture.q_lora_rank or 0) + (architecture.kv_lora_rank or 0)
    inputs = tokens.attention * (hidden + heads * wide + ranks)
    projected = query_key_value(architecture, heads, groups) + gate_width(architecture, heads)
    return inputs, tokens.attention * (projected + hidden + ranks)


def query_key_value(architecture: Architecture, heads: Number, groups: Number) -> Number:
    """Elements of q, k and v a token on one GPU (MLA: decompressed)."""
    return heads * architecture.qk_head_dim + groups * (architecture.qk_head_dim + architecture.value_head_dim)


def memory_bytes(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Number:
    """Forward bytes of the block's memory-bound kernels: norm, residual and glue 10 T h; RoPE and layout changes of
    q, k, v 4 bytes an element (8 with norms on q and k); MLA's compressed norms 4 T (r_q + r_kv); an output gate is
    copied out of the projection, read beside the output and multiplied, 10 bytes an element."""
    heads, groups = local_heads(architecture, degrees)
    passes = 4 if architecture.qk_norm == "none" else 8
    glue = tokens.local * (10 * architecture.hidden_size)
    compressed = 4 * ((architecture.q_lora_rank or 0) + (architecture.kv_lora_rank or 0))
    gate = tokens.attention * gate_width(architecture, heads) * 10
    return (
        glue
        + tokens.attention * query_key_value(architecture, heads, groups) * passes
        + gate
        + tokens.local * compressed
    )


def core_pairs_twice(problem: Problem, window: int) -> int:
    """Twice the pairs of query and key of a sequence: causal ones, or the `window` a query that it sees at most."""
    sequence = problem.workload.sequence_length
    seen = min(window, sequence) if window else sequence
    return seen * (2 * sequence - seen)


def core_flops(problem: Problem, degrees: Degrees, window: int) -> Number:
    """Forward FLOP of softmax(QK)V on one GPU: causal pairs only, or those inside the sliding window."""
    architecture = problem.architecture
    heads, _ = local_heads(architecture, degrees)
    each = core_pairs_twice(problem, window) * (architecture.qk_head_dim + architecture.value_head_dim)
    return ceil_div(degrees.micro_batch_size * heads * each, degrees.cp)


def core_rate(architecture: Architecture, rates: Rates) -> int:
    """FLOP a nanosecond of the core on long sequences: bf16 in every recipe."""
    share = exact(rates.efficiency.attention)
    if architecture.is_mla:
        share *= MLA_SPEEDUP
    elif architecture.head_dim <= 64:
        share *= NARROW_HEAD_SLOWDOWN
    return int(rates.peak_bf16_flops_per_ns * share)


def core_ns(problem: Problem, degrees: Degrees, rates: Rates, window: int) -> tuple[Number, Number]:
    """Forward and backward time of the core; each ring step of context parallelism works on s/cp tokens. Backward has
    2.5 times the FLOP (five products against two), at `attention_backward` of the forward rate."""
    flops = core_flops(problem, degrees, window)
    local = ceil_div(problem.workload.sequence_length, degrees.cp)
    long = ceil_div(flops, core_rate(problem.architecture, rates))
    forward = long + ceil_div(long * HALF_SPEED_SEQUENCE, local)
    ratio = exact(2.5) / exact(rates.efficiency.attention_backward)
    return forward, ceil_div(forward * ratio.numerator, ratio.denominator)
