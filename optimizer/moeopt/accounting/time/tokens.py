"""Tokens and rows that one GPU sees of one micro-batch."""

from dataclasses import dataclass
from fractions import Fraction

from moeopt.accounting.routing import UNIT, initial_imbalance
from moeopt.arithmetic import Number, ceil_div, round_up
from moeopt.layout import Choices, Degrees
from moeopt.problem.problem import Problem

FUSED_PADDING = 256
"""Rows of an expert are padded to this for the fused grouped MLP of full-iteration graphs (Megatron-Bridge 26.06 mxfp8
recipes)."""


@dataclass(frozen=True)
class Tokens:
    """`attention` = tokens inside a tensor-parallel region, `local` = outside it (sequence parallel)."""

    attention: Number
    local: Number
    routed: Number
    """Expert rows that reach the busiest GPU, before padding, all expert-tensor ranks' tokens included."""
    expert_rows: Number
    """The same with each local expert's rows padded to the precision's block."""
    local_experts: Number


def load(problem: Problem, ep: Number) -> tuple[Number, int]:
    """Rows on the busiest rank over the mean, as numerator and denominator: the imbalance, or the capacity factor that
    everything is padded to.

    `worst` sizes memory only: time is then that of balanced routing (no run routes all tokens to one rank).
    """
    routing = problem.workload.routing
    if routing.initial and routing.capacity_factor is None:
        return initial_imbalance(problem.architecture, ep), UNIT
    given = routing.capacity_factor if routing.capacity_factor is not None else routing.imbalance
    share = Fraction(str(given)).limit_denominator(1000)
    return share.numerator, share.denominator


def fused_experts(problem: Problem, choices: Choices) -> bool:
    """Quantised full-iteration-graph recipes run the fused grouped MLP (Megatron-Bridge 26.06 and later)."""
    return choices.cuda_graphs == "full_iteration" and problem.workload.format.quantized


def tokens(problem: Problem, degrees: Degrees, choices: Choices) -> Tokens:
    """Token and row counts of one micro-batch on one GPU."""
    architecture, workload = problem.architecture, problem.workload
    inside = ceil_div(workload.sequence_length * degrees.micro_batch_size, degrees.cp)
    local = ceil_div(inside, degrees.tp) if choices.sequence_parallel else inside
    if not architecture.num_experts:
        return Tokens(inside, local, 0, 0, 0)
    numerator, denominator = load(problem, degrees.ep)
    experts = ceil_div(architecture.num_experts, degrees.ep)
    visits = local * architecture.num_experts_per_tok * degrees.etp
    each = ceil_div(visits * degrees.ep * numerator, architecture.num_experts * denominator)
    block = FUSED_PADDING if fused_experts(problem, choices) else workload.format.expert_rows
    routed = ceil_div(visits * numerator, denominator)
    return Tokens(inside, local, routed, round_up(each, block) * experts, experts)
