"""How long one chunk may take in any placement that stays below a known time: what makes proofs short.

Interleaved schedules, symbols as in `moeopt.schedule.bounds`; W is the work of one micro-batch through all stages. Let
some chunk position c have its longest chunk at tau. For any base x0 <= tau,
    UB2 >= (Mv+p-1) x0 + (M-K)(tau - x0) + K * cheap + ((M-K)/p + K) * dear,
where the excess over x0 of all stages, at least W - p v x0, is put where it costs least: `cheap` on position c, which
can hold p (tau - x0) without raising its maximum, and `dear` on the other positions, where each unit raises a mean and
so a maximum. The right side is convex and piecewise linear in x0, so its minimum is at one of four points. It grows
with tau beyond the mean, so a bisection gives the largest tau that the ledger's time allows.
"""

from fractions import Fraction

from moeopt.arithmetic import ceil_div


def ub2_at_least(pp: int, vpp: int, num_microbatches: int, group: int, work_ns: int, longest_ns: int) -> Fraction:
    """A lower bound on UB2 of every placement of `work_ns` whose longest chunk takes `longest_ns` or more."""
    groups = ceil_div(num_microbatches, group)
    tau = Fraction(longest_ns)

    def value(base: Fraction) -> Fraction:
        excess = max(work_ns - pp * vpp * base, tau - base)
        cheap = min(excess, pp * (tau - base))
        dear = excess - cheap
        return (
            (num_microbatches * vpp + pp - 1) * base
            + (num_microbatches - groups) * (tau - base)
            + groups * cheap
            + (Fraction(num_microbatches - groups, pp) + groups) * dear
        )

    points = [Fraction(0), tau, Fraction(work_ns - longest_ns, pp * vpp - 1)]
    if vpp > 1:
        points.append(Fraction(work_ns - pp * longest_ns, pp * (vpp - 1)))
    return min(value(min(max(point, Fraction(0)), tau)) for point in points)


def longest_chunk_ns(pp: int, vpp: int, num_microbatches: int, group: int, work_ns: int, limit_ns: int) -> int:
    """The longest chunk (forward + backward of one micro-batch) of any placement whose ledger time is within the limit.

    1F1B: M times the longest stage is a row, and 2 W + (M - p - 1) times it is below one (see `placement_bound`).
    Interleaved: the middle of the rows (at least M W / p) and the bound on UB2 above.
    """
    if vpp == 1:
        longest = limit_ns // num_microbatches
        if num_microbatches > pp + 1:
            longest = min(longest, (limit_ns - 2 * work_ns) // (num_microbatches - pp - 1))
        return max(longest, 0)
    rows = Fraction(num_microbatches * work_ns, pp)
    low, high = ceil_div(work_ns, pp * vpp), limit_ns // num_microbatches
    while low < high:
        middle = (low + high + 1) // 2
        if rows + ub2_at_least(pp, vpp, num_microbatches, group, work_ns, middle) <= 2 * limit_ns:
            low = middle
        else:
            high = middle - 1
    return int(low)
