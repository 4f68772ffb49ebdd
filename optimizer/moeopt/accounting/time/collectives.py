"""Tensor, expert-tensor and context parallel communication of one layer, and the pipeline hop."""

from fractions import Fraction

from moeopt.accounting.time.efficiency import Rates
from moeopt.accounting.time.tokens import Tokens
from moeopt.accounting.time.topology import domains, pipeline_crosses, ring_bytes_per_us, ring_latency_ns
from moeopt.arithmetic import Number, ceil_div, maximum, times, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

USER_BUFFER_EXPOSED = (2, 5)
"""Part of tensor-parallel communication that stays exposed with overlap.tp_comm (assumed: 0.4)."""
RING_FLOOR = (10, 20)
"""Per cent of the context-parallel ring that stays exposed in forward and backward, however long attention is
(assumed: no published MoE row has cp > 1)."""


def transfer_ns(count_bytes: Number, bytes_per_us: Number) -> Number:
    """Bytes over bandwidth."""
    return ceil_div(count_bytes * 1000, bytes_per_us)


def ring_ns(
    problem: Problem, degrees: Degrees, rates: Rates, moved_bytes: Number, size: Number, stride: Number, operations: int
) -> Number:
    """Some operations over a ring of `size` ranks `stride` apart that move so many bytes together; no bytes and no time
    where it is one rank."""
    time = transfer_ns(moved_bytes, ring_bytes_per_us(problem, degrees, rates, size, stride))
    return time + operations * ring_latency_ns(problem, degrees, size, stride)


def tensor_block_ns(
    problem: Problem, degrees: Degrees, choices: Choices, tokens: Tokens, rates: Rates, gathered_bytes: Fraction
) -> tuple[Number, Number]:
    """Exposed tensor-parallel time of one block, forward and backward.

    A gather moves `gathered_bytes` A h (t-1)/t bytes (1 in 8-bit recipes, 9/16 in nvfp4: Transformer Engine quantises
    first, pytorch/distributed.py:989-1080, 1332-1540, 1527-1665), a reduce-scatter 2. Forward exposes one of each,
    backward one of each and half of the gather for the weight gradient. Without sequence parallelism the two
    all-reduces move as much.
    """
    t = degrees.tp
    elements = ceil_div(tokens.attention * problem.architecture.hidden_size, t) * (t - 1)
    rate = ring_bytes_per_us(problem, degrees, rates, t, 1)
    latency = ring_latency_ns(problem, degrees, t, 1)
    forward = transfer_ns(times(elements, gathered_bytes + 2), rate) + 2 * latency
    backward = transfer_ns(times(elements, (3 * gathered_bytes + 4) / 2), rate) + ceil_div(5 * latency, 2)
    return _shown(forward, t, choices), _shown(backward, t, choices)


def _shown(time: Number, t: Number, choices: Choices) -> Number:
    if choices.overlap.tp_comm:
        time = ceil_div(time * USER_BUFFER_EXPOSED[0], USER_BUFFER_EXPOSED[1])
    return where(t > 1, time, 0)


def expert_tensor_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Expert-tensor time of one direction (forward; backward mirrors it): an all-gather of the routed rows in 2 bytes
    and a reduce-scatter in 4 (fp32 router probabilities; megatron/core/transformer/moe/token_dispatcher.py)."""
    q = degrees.etp
    moved = ceil_div(tokens.routed, q) * (q - 1) * (6 * problem.architecture.expert_hidden_size)
    return ring_ns(problem, degrees, rates, moved, q, 1, 2)


def context_ring_ns(
    problem: Problem,
    degrees: Degrees,
    tokens: Tokens,
    rates: Rates,
    key_value_elements: Number,
    core: tuple[Number, Number],
) -> tuple[Number, Number]:
    """Exposed forward and backward time of the ring that passes keys and values (and, backward, their gradients).

    cp - 1 exchanges of the local keys and values, each hidden behind the attention of one ring step. Source:
    Transformer Engine's p2p context parallelism; the ring crosses domains as soon as tp*cp spans more than one.
    """
    c = degrees.cp
    cluster = problem.cluster
    crosses = domains(problem, degrees, degrees.tp * c) > 1
    rate = where(crosses, rates.network_bytes_per_us, rates.nvlink_bytes_per_us)
    latency = where(crosses, cluster.network_latency_ns, cluster.nvlink_latency_ns)
    ring = (c - 1) * (transfer_ns(tokens.attention * key_value_elements * 2, rate) + latency)
    forward = maximum(ceil_div(ring * RING_FLOOR[0], 100), ring - core[0] * (c - 1) // c)
    backward = maximum(ceil_div(2 * ring * RING_FLOOR[1], 100), 2 * ring - core[1] * (c - 1) // c)
    return forward, backward


def hop_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """One pipeline send of 2 T h bytes to the next stage; over the network once the job spans two domains."""
    cluster = problem.cluster
    crosses = pipeline_crosses(problem, degrees)
    rate = where(crosses, rates.network_bytes_per_us, rates.nvlink_bytes_per_us)
    latency = where(crosses, cluster.network_latency_ns, cluster.nvlink_latency_ns)
    moved = tokens.local * (2 * problem.architecture.hidden_size)
    return where(degrees.pp > 1, transfer_ns(moved, rate) + latency, 0)
