"""Expert-parallel dispatch and combine: bytes inside and across NVLink domains, by dispatcher.

Four of them a MoE layer and micro-batch: dispatch and combine, forward and backward.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil

import numpy as np

from moeopt.accounting.time.collectives import transfer_ns
from moeopt.accounting.time.efficiency import Rates, exact
from moeopt.accounting.time.tokens import Tokens, load
from moeopt.accounting.time.topology import domains, ring_bytes_per_us
from moeopt.arithmetic import Number, ceil_div, is_column, maximum, where
from moeopt.layout import Choices, Degrees
from moeopt.problem.architecture import Architecture
from moeopt.problem.problem import Problem

SHARE_UNIT = 2**16
"""Shares of tokens are whole multiples of 1/65536, rounded up."""
NCCL_INSIDE = (9, 10)
"""NCCL's all-to-all inside a domain over what HybridEP reaches there (0.9: NCCL 325 against HybridEP 410 GB/s on
H100, 500-560 against 650-690 on GB200, from the dispatch table of the Megatron-Core report, arXiv 2603.07685)."""

DEFAULT_SMS = {"deepep": (20, 20), "hybridep": (32, 8)}
"""SMs of a fused dispatcher where none are given, for a group inside one domain and over several (Megatron-LM d98e8a6,
megatron/core/transformer/moe/token_dispatcher.py:1287; deepseek-ai/DeepEP, deep_ep/hybrid_ep_buffer.py)."""


def tabulate(function: Callable[[int], int], values: Number) -> Number:
    """An integer function of one degree; a column is evaluated once for each distinct value."""
    if not is_column(values):
        return function(int(values))
    distinct, where_from = np.unique(values, return_inverse=True)
    return np.array([function(int(value)) for value in distinct], dtype=np.int64)[where_from]


def even_hit_share(choices_left: int, destinations: int) -> Fraction:
    """Chance that a token with that many independent choices visits one given destination: 1 - (1 - 1/g)^k."""
    return 1 - Fraction(destinations - 1, destinations) ** choices_left


def hit_share(architecture: Architecture, destinations: int) -> Fraction:
    """Chance that a token visits one given destination (a rank or a domain) of so many that hold equal shares of the
    experts. Group-limited routing (topk_group of n_group) touches fewer: 1 - prod (G - G/N - i)/(G - i) over the groups
    kept; with more destinations than groups, first the group and then one of its destinations."""
    top, groups, kept = architecture.num_experts_per_tok, architecture.n_group, architecture.topk_group
    if not groups or not kept or kept >= groups:
        return even_hit_share(top, destinations)
    if destinations > groups:
        return Fraction(kept, groups) * even_hit_share(ceil(Fraction(top, kept)), ceil(Fraction(destinations, groups)))
    missed = Fraction(1)
    for index in range(kept):
        missed *= max(Fraction(0), groups - Fraction(groups, destinations) - index) / (groups - index)
    return 1 - missed


def _scaled_bytes(tokens: Tokens, hidden: int, copies: Number, imbalance: tuple[Number, int]) -> Number:
    """2 T h bytes times copies (in units), for the busiest rank."""
    units = SHARE_UNIT * imbalance[1]
    return ceil_div(tokens.local * copies * imbalance[0], units) * (2 * hidden)


def all_to_all_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """NCCL all-to-all of every routed row: the part outside the domain over the network, the rest over NVLink."""
    architecture = problem.architecture
    spanned = domains(problem, degrees, degrees.etp * degrees.ep)
    rows, e = ceil_div(tokens.routed, degrees.etp), degrees.ep
    width = 2 * architecture.expert_hidden_size
    leaves = ceil_div(rows * (spanned - 1), spanned) * width
    stays = maximum(ceil_div(rows * (e - 1), e) * width - leaves, 0)
    inside = rates.nvlink_bytes_per_us * NCCL_INSIDE[0] // NCCL_INSIDE[1]
    return maximum(transfer_ns(stays, inside), transfer_ns(leaves, rates.network_bytes_per_us))


def copied_bytes_per_us(choices: Choices, spanned: Number, rates: Rates) -> Number:
    """What a fused dispatcher's SMs copy inside a domain, at most what NVLink carries."""
    each = exact(getattr(rates.efficiency.dispatch_bytes_per_s_per_sm, choices.dispatcher)) / 10**6
    given = choices.dispatcher_sms
    counts = DEFAULT_SMS[choices.dispatcher] if given is None else (given, given)
    alone, crossing = (min(int(each * sms), rates.nvlink_bytes_per_us) for sms in counts)
    return where(spanned > 1, crossing, alone)


def deduplicated_ns(problem: Problem, degrees: Degrees, choices: Choices, tokens: Tokens, rates: Rates) -> Number:
    """DeepEP and HybridEP: a token travels once to each domain it visits, and once to each rank it visits there.

    Across domains (N - 1) P(domain) copies a token; inside, all that a rank receives, e P(rank), but for its own share
    of the domain's g ranks: (g - 1)/g of it, no faster than the dispatcher's SMs copy. Both run at once; the slower one
    counts. Ignored: what SMs cost computation beside them (`overlap_slowdown` does not grow with them).
    """
    architecture, imbalance = problem.architecture, load(problem, degrees.ep)
    spanned = domains(problem, degrees, degrees.etp * degrees.ep)
    inside = maximum(1, ceil_div(degrees.ep, spanned))
    visits = tabulate(lambda ranks: ceil(ranks * hit_share(architecture, ranks) * SHARE_UNIT), degrees.ep)
    within = ceil_div(visits * (inside - 1), inside)
    across = tabulate(lambda count: ceil((count - 1) * hit_share(architecture, count) * SHARE_UNIT), spanned)
    hidden = architecture.expert_hidden_size
    inside_rate = copied_bytes_per_us(choices, spanned, rates)
    stays = transfer_ns(_scaled_bytes(tokens, hidden, within, imbalance), inside_rate)
    leaves = transfer_ns(_scaled_bytes(tokens, hidden, across, imbalance), rates.network_bytes_per_us)
    return maximum(stays, leaves)


def all_gather_ns(problem: Problem, degrees: Degrees, tokens: Tokens, rates: Rates) -> Number:
    """Megatron's allgather dispatcher: every rank of the etp*ep block receives all tokens (2 bytes) and gives their
    outputs back (4 bytes: fp32 probabilities), so 3 T h bytes on average for dispatch and combine."""
    block = degrees.etp * degrees.ep
    moved = tokens.local * (block - 1) * (3 * problem.architecture.expert_hidden_size)
    return transfer_ns(moved, ring_bytes_per_us(problem, degrees, rates, block, 1))


def dispatch_ns(problem: Problem, degrees: Degrees, choices: Choices, tokens: Tokens, rates: Rates) -> Number:
    """One dispatch or one combine, before any overlap; nothing where every expert is local."""
    latency: int = getattr(rates.efficiency.dispatch_latency_ns, choices.dispatcher)
    if choices.dispatcher == "alltoall":
        time = all_to_all_ns(problem, degrees, tokens, rates)
    elif choices.dispatcher == "allgather":
        time = all_gather_ns(problem, degrees, tokens, rates)
        return where(degrees.ep * degrees.etp > 1, time + latency, 0)
    else:
        time = deduplicated_ns(problem, degrees, choices, tokens, rates)
    return where(degrees.ep > 1, time + latency, 0)
