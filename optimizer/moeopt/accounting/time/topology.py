"""Where ranks sit: groups, NVLink domains and the bandwidth of rings, under Megatron's default rank order.

Dense grid, fastest first: tp, cp, dp, pp; expert grid: etp, ep, edp, pp (megatron/core/parallel_state.py). So a tensor
group is tp consecutive ranks, a context group has stride tp, an expert group lies in a block of etp*ep consecutive
ranks, and pipeline neighbours are gpus/pp apart. Domains hold `ranks_per_domain` consecutive ranks.
"""

from moeopt.accounting.time.efficiency import Rates
from moeopt.arithmetic import Number, ceil_div, either, lcm, maximum, minimum, where
from moeopt.layout import Degrees
from moeopt.problem.problem import Problem

LONG_RING_STEP_NS = (1_900, 4_000)
"""A step of a ring over several domains, inside one and across: what NCCL itself reckons with (src/graph/tuning.cc,
hwLat, ring, LL128: NVLink and network). Its Simple protocol takes 3.4 and 9.6 us, but is chosen where bytes decide."""


def domains(problem: Problem, degrees: Degrees, block: Number) -> Number:
    """Domains that the worst-placed aligned block of consecutive ranks touches.

    Blocks start at multiples of their size, so their offsets in a domain are multiples of g = gcd(block, domain), the
    last of them domain - g: ceil((domain - g + block) / domain). A block that divides the domain stays in one.
    """
    size = problem.cluster.ranks_per_domain
    divisor = block * size // lcm(block, size)
    spanned = ceil_div(size - divisor + block, size)
    return minimum(spanned, ceil_div(degrees.gpus, size))


def ring_bytes_per_us(problem: Problem, degrees: Degrees, rates: Rates, size: Number, stride: Number) -> Number:
    """Bandwidth of a ring over `size` ranks `stride` apart.

    Inside one domain NVLink; across domains each member there drives its own network port, so a ring with m members a
    domain moves m ports' worth, up to NVLink (facts: gradient rings; source of the rule: NCCL's multi-rail rings).
    """
    spanned = domains(problem, degrees, size * stride)
    members = maximum(1, ceil_div(size, spanned))
    across = minimum(rates.nvlink_bytes_per_us, rates.network_bytes_per_us * members)
    return where(either(spanned == 1, size == 1), rates.nvlink_bytes_per_us, across)


def ring_latency_ns(problem: Problem, degrees: Degrees, size: Number, stride: Number) -> Number:
    """What filling a ring of `size` ranks `stride` apart costs besides its bytes, once an operation: a step a rank.

    Inside one domain a step takes half of the smallest all-gather on 8 GPUs: 5 us on H100 and 8 on B200 are what 32 MiB
    take over their share of 512 MiB on 2, 4 and 8 GPUs (aiconfigurator comm/nccl). Rings over domains are filled by as
    many and shorter steps, for which NCCL switches protocol: see `LONG_RING_STEP_NS`.
    """
    spanned = domains(problem, degrees, size * stride)
    across = minimum(spanned, size)
    short = ceil_div(size * problem.cluster.nvlink_latency_ns, 2)
    long = (size - across) * LONG_RING_STEP_NS[0] + across * LONG_RING_STEP_NS[1]
    return where(size > 1, where(spanned > 1, long, short), 0)


def pipeline_crosses(problem: Problem, degrees: Degrees) -> Number:
    """Whether some pipeline boundary lies between two domains: as soon as the job is larger than one domain."""
    return degrees.gpus > problem.cluster.ranks_per_domain
