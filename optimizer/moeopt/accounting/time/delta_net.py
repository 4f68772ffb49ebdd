"""A gated delta net in place of attention: projections, the delta rule, and the bytes of its memory-bound kernels.

The delta rule runs chunk by chunk (64 tokens) in kernels that stream through memory: their bytes over a rate, plus a
scan over the sequence that no head and no batch shortens. Bytes, for each value head and token, k and v its head's
widths, C = 64 (flash-linear-attention 0.6.0, ops/gated_delta_rule/chunk.py; 16-bit operands, products of keys in 32):

    forward   14 k + 12 v + 12 C + 4 k v / C     products of keys, their inverse, keys and values by it, states, output
    backward  42 k + 30 v +  4 C + 8 k v / C     keys and values by it and states again, then all gradients

Forward fits the kernels that aiconfigurator-core 0.12.0 measured (gdn_perf, trtllm 1.3.0rc20: 16 to 64 heads, 2K to 32K
tokens, up to 8 sequences, six GPUs, 472 points) to 5 % in the mean and 26 % at worst; backward follows from its bytes
and its two scans and is not measured. Ignored: tails of sequences that 64 does not divide.
"""

from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.scan import Linears, head_exchange_ns
from moeopt.accounting.time.tokens import Tokens
from moeopt.arithmetic import Number, ceil_div
from moeopt.layout import Degrees
from moeopt.problem.architecture import DELTA_CHUNK, Architecture
from moeopt.problem.problem import Problem

SCAN_NS = 22
"""A token of the scan over a sequence: 21 to 27 ns on every GPU measured; forward one scan, backward two."""


def linears(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Linears:
    """Its two linears."""
    into = ceil_div(architecture.delta_net_projection_dim, degrees.tp)
    out = ceil_div(architecture.delta_net_value_dim, degrees.tp)
    return Linears(tokens.attention, architecture.hidden_size, into, out)


def memory_bytes(architecture: Architecture, tokens: Tokens, degrees: Degrees) -> Number:
    """Forward bytes of the memory-bound kernels: norm, residual and glue 10 T h; queries, keys and values copied,
    convolved, normed (12 bytes an element) and repeated for every value head; the gate copied; the output normed, gated
    and transposed (18)."""
    a, tp = architecture, degrees.tp
    convolved = ceil_div(2 * a.delta_net_key_dim + a.delta_net_value_dim, tp)
    repeated = ceil_div(2 * a.linear_num_value_heads * a.linear_key_head_dim, tp)
    values = ceil_div(a.delta_net_value_dim, tp)
    inside = 12 * convolved + 4 * repeated + (4 + 4 + 18) * values
    return tokens.local * (10 * a.hidden_size) + tokens.attention * inside


def rule_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> tuple[Number, Number]:
    """Forward and backward time of the delta rule. Under context parallelism a rank has every token of fewer heads."""
    a = problem.architecture
    k, v = a.linear_key_head_dim, a.linear_value_head_dim
    states = ceil_div(4 * k * v, DELTA_CHUNK)
    each = (14 * k + 12 * v + 12 * DELTA_CHUNK + states, 42 * k + 30 * v + 4 * DELTA_CHUNK + 2 * states)
    heads = tokens.attention * ceil_div(a.linear_num_value_heads, degrees.tp)
    scan = problem.workload.sequence_length * SCAN_NS
    forward, backward = (ceil_div(heads * (1000 * size), rates.delta_rule_bytes_per_us) for size in each)
    return forward + scan, backward + 2 * scan


def exchange_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Context parallelism, one direction: one all-to-all of the projection's output, another of the result (gdn.py,
    a2a_cp_to_hp)."""
    both = linears(problem.architecture, tokens, degrees)
    return head_exchange_ns(problem, degrees, tokens, rates, both.into + both.out, 2)
