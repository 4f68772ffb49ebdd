"""A bound on the ledger's pipeline time that holds for every placement of a given total work over the stages.

W = F + B is the work of one micro-batch through all stages, S = p v stages, other symbols as in
`moeopt.schedule.bounds`. All arguments may be integers or columns of layouts. The proofs use rows of
`lower_bound_rows`, so they hold for whatever the ledger takes as its maximum of rows.

1F1B, M > p. (a) Averaging Z(r) over the ranks: (k+1) W + (M-1-kp) W/p = (M+p-1) W/p with 2(p-1)(k+1) hops, k =
(M-1)//p; even stages attain it. (b) Let r be the heaviest stage, of time H. R4(r) = sum_{i<r} t_i + 2 sum_{i>r} t_i +
(M-p+r+1) H and sum_{i<r} t_i <= r H, so R4(r) >= 2 (W - H) - r H + (M-p+r+1) H = 2 W + (M-p-1) H. Any M: averages of
R1 (M W/p) and of R2 (W + (M-1) B/p), and R1 of the heaviest stage (M H).

Interleaved. (c) Joint bound of the largest row and UB2: for weights w_r >= 0 with sum 1 the largest row is at least
sum w_r R1(r), which prices stage (i, c) at M w_i + [c=0] sum_{r>i} w_r. By duality UB2 >= sum y_s t_s for every y >=
0 with sum y <= Mv+p-1 and, in every chunk, sum_i max(0, y - K) <= M-K: for any x0, sum y t <= sum y x0 + sum y e, the
first is at most (Mv+p-1) x0, and y e <= K e + max(0, y-K) max_r e. So if every stage's price plus y is at least q,
the two together are at least q W. Weights 2/p on the upper half of the ranks leave room for y where it is cheap; q is
found by filling y level. (d) Separately: the largest row is at least M times the heaviest rank, and UB2 as in
`ub2_placement_bound`. The hops that the ledger adds to UB2 are the same for every placement and come on top.

Granularity: of n equal indivisible pieces of time d, some stage holds h = ceil(n/S) and some rank g = ceil(n/p) or
more.

Interleaved, (e). Either a rank holds g+1 pieces (its R1 is at least M (g+1) d), or a stage holds h+1 (UB2 of one
piece of (h+1) d), or neither. Then at least n - p (g-1) ranks hold g; r be the last of them, so r >= n - p (g-1) - 1.
Ranks after r hold at most g-1 each, ranks before r at most (v-1) h outside chunk 0, so chunk 0 of the ranks before r
holds at least n - g - (p-1-r)(g-1) - r (v-1) h pieces: the fill of R1(r) = M g d + that. Linear in r: an end of r's
range is the smallest.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np

from moeopt.arithmetic import Number, both, ceil_div, is_column, maximum, minimum, where
from moeopt.schedule.even import even_hops


def placement_lower_bound(
    pp: Number,
    vpp: Number,
    num_microbatches: Number,
    group: Number,
    total_forward_ns: Number,
    total_backward_ns: Number,
    hop_ns: Number,
    pieces: Sequence[tuple[Number, Number]] = (),
    ep_overlap: bool = False,
) -> Number:
    """A value that `ledger_pipeline_ns` reaches or exceeds however the total work is spread over the stages.

    Columns may be of settings x rows where those of the shape are of rows.

    `pieces` lists (count, forward + backward time) of equal indivisible pieces, part of the total: the decoder layers
    of one kind, or one MTP module. Each entry is used on its own. Stage times are integers, the result is rounded up.
    """
    shape = (pp, vpp, num_microbatches, group)
    if any(map(is_column, shape)):
        pp, vpp, num_microbatches, group = np.broadcast_arrays(*shape)
    work = total_forward_ns + total_backward_ns
    plain = plain_lower_bound(pp, num_microbatches, work, total_backward_ns, hop_ns, pieces, ep_overlap)
    rows = _ceil_share(num_microbatches, work, pp)
    for count, time in pieces:
        rows = maximum(rows, num_microbatches * (ceil_div(count, pp) * time))
    several = maximum(vpp, 2)  # the interleaved formulas are evaluated, and not used, where vpp is 1
    valid_group = where(vpp > 1, maximum(group, 1), num_microbatches)
    upper = ub2_placement_bound(pp, several, num_microbatches, valid_group, work, pieces)
    both_sides = maximum(rows + upper, _joint_bound(pp, several, num_microbatches, valid_group, work, hop_ns))
    for count, time in pieces:
        filled = _filled_bound(pp, several, num_microbatches, valid_group, work, count, time, rows, upper)
        both_sides = maximum(both_sides, filled)
    both_sides = both_sides + even_hops(pp, several, num_microbatches, valid_group, ep_overlap) * hop_ns
    return where(vpp > 1, ceil_div(both_sides, 2), plain)


def replay_lower_bound(
    shape: tuple[Number, Number, Number],
    total_forward_ns: Number,
    total_backward_ns: Number,
    hop_ns: Number,
    pieces: Sequence[tuple[Number, Number]] = (),
    ep_overlap: bool = False,
) -> Number:
    """A value that the replay reaches or exceeds however the total work is spread; `shape` is (pp, vpp, M).

    1F1B: the ledger's bound, which rests on rows. Interleaved: what rows alone give: M times the heaviest rank (a mean
    one, or one with its share of indivisible pieces), and one micro-batch through all stages and back. Columns or
    integers.
    """
    pp, vpp, num_microbatches = shape
    work = total_forward_ns + total_backward_ns
    plain = plain_lower_bound(pp, num_microbatches, work, total_backward_ns, hop_ns, pieces, ep_overlap)
    rows = maximum(_ceil_share(num_microbatches, work, pp), work)
    for count, time in pieces:
        rows = maximum(rows, num_microbatches * (ceil_div(count, pp) * time))
    return where(vpp > 1, rows, plain)


def _ceil_share(times: Number, work: Number, parts: Number) -> Number:
    """ceil(times * work / parts), the product kept small."""
    return times * (work // parts) + ceil_div(times * (work % parts), parts)


def plain_lower_bound(
    pp: Number,
    num_microbatches: Number,
    work: Number,
    backward: Number,
    hop: Number = 0,
    pieces: Sequence[tuple[Number, Number]] = (),
    ep_overlap: bool = False,
) -> Number:
    """1F1B alone, for the ledger and the replay: (a), (b) and the averages for any M; with `ep_overlap` (a longer
    warm-up) only what does not depend on it."""
    m, ways = num_microbatches, 2 * (pp - 1) * hop
    bound = maximum(_ceil_share(m, work, pp), work + _ceil_share(m - 1, backward, pp) + ways)
    heaviest = ceil_div(work, pp)
    for count, time in pieces:
        heaviest = maximum(heaviest, ceil_div(count, pp) * time)
    bound = maximum(bound, m * heaviest)
    if ep_overlap:
        return bound
    level = _ceil_share(m + pp - 1, work, pp) + ways * ((m - 1) // pp + 1)
    stay = 2 * work + (m - pp - 1) * heaviest + ways
    return where(m > pp, maximum(bound, level, stay), bound)


def ub2_placement_bound(
    pp: Number,
    vpp: Number,
    num_microbatches: Number,
    group: Number,
    work: Number,
    pieces: Sequence[tuple[Number, Number]],
) -> Number:
    """UB2 of any placement.

    UB2 = min over x of (Mv+p-1) x + sum_c [(M-K) max_r e + K sum_r e]. (1) max >= mean and sum e >= W - S x: at least
    the line (Mv+p-1) x + ((M-K)/p + K)(W - S x), which falls by (p-1)(Kv-1) a unit of x until x = W/S; so UB2 >=
    (Mv+p-1) W/S. (2) n pieces of time d: with k = ceil(n/S) - 1, a = n - k S and k d <= x <= (k+1) d, a stage of k+j
    pieces has e >= j ((k+1) d - x) and at least a pieces lie above k a stage, so the bracket is at least g ((k+1) d -
    x) with g = (M-K) ceil(a/p) + K a. Where (Mv+p-1) x + that falls with x, its end (Mv+p-1)(k+1) d is the minimum;
    else it rises and the minimum of the larger of (1) and (2) is where they cross. Left of k d, (1) is above its
    value at k d.
    """
    m, rounds = num_microbatches, ceil_div(num_microbatches, group)
    span, stages = m * vpp + pp - 1, pp * vpp
    bound = _ceil_share(span, work, stages)
    share = m - rounds + rounds * pp
    falls = (pp - 1) * (rounds * vpp - 1)
    for count, time in pieces:
        base = ceil_div(count, stages) - 1
        above = count - base * stages
        weight = (m - rounds) * ceil_div(above, pp) + rounds * above
        end = (base + 1) * time
        rises = maximum(span - weight, 1)
        flat = share * work // pp
        crossing = weight * end + (flat - weight * end) * rises // (falls + rises)
        # Left of k d there is nothing where k is 0, and lines that cross left of 0 leave (2) at 0.
        crossing = where(both(base == 0, flat < weight * end), weight * end, crossing)
        inside = where(weight >= span, span * end, crossing)
        start = span * base * time + share * (work - stages * base * time) // pp
        bound = maximum(bound, where(base == 0, inside, minimum(start, inside)))
    return bound


def _filled_bound(
    pp: Number,
    vpp: Number,
    num_microbatches: Number,
    group: Number,
    work: Number,
    count: Number,
    time: Number,
    rows: Number,
    upper: Number,
) -> Number:
    """(e): the smallest of three cases of row + UB2, given what is known of both (`rows`, `upper`)."""
    m, most, tall = num_microbatches, ceil_div(count, pp), ceil_div(count, pp * vpp)
    at_last = count - most - (pp - 1) * (vpp - 1) * tall
    at_first = at_last - (pp * most - count) * (most - 1 - (vpp - 1) * tall)
    fill = maximum(minimum(at_last, at_first), 0)
    rank_above = maximum(rows, m * (most + 1) * time) + upper
    stage_above = rows + maximum(
        upper, ub2_placement_bound(pp, vpp, num_microbatches, group, work, [(1, (tall + 1) * time)])
    )
    neither = maximum(rows, (m * most + fill) * time) + upper
    return minimum(rank_above, stage_above, neither)


def _joint_bound(pp: Number, vpp: Number, num_microbatches: Number, group: Number, work: Number, hop: Number) -> Number:
    """(c) for one shape or, once for each different one, for columns of shapes."""
    if not is_column(pp):
        numerator, denominator, hops = _joint_share(int(pp), int(vpp), int(num_microbatches), int(group))
        return _ceil_share(numerator, work, denominator) + hops * hop
    shapes = np.stack(np.broadcast_arrays(pp, vpp, num_microbatches, group), axis=1)
    unique, index = np.unique(shapes, axis=0, return_inverse=True)
    shares = np.array([_joint_share(*map(int, shape)) for shape in unique], dtype=np.int64).reshape(-1, 3)
    numerator, denominator, hops = shares[index.reshape(-1)].T
    return _ceil_share(numerator, work, denominator) + hops * hop


@lru_cache(maxsize=65536)
def _joint_share(pp: int, vpp: int, num_microbatches: int, group: int) -> tuple[int, int, int]:
    """(numerator, denominator, hops): the largest row plus UB2 is at least numerator / denominator * W + hops * l.

    Weights in units of 1/p: 2 for the upper half of the ranks, 1 for the middle one if p is odd. The hops of R1(r)
    are 2 r.
    """
    m, rounds = num_microbatches, -(-num_microbatches // group)
    weights = [0] * (pp // 2) + [1] * (pp % 2) + [2] * (pp // 2)
    own = [m * weight for weight in weights]
    first = [m * weight + sum(weights[rank + 1 :]) for rank, weight in enumerate(weights)]
    levels = [
        _level(first + own * (vpp - 1), pp * (m * vpp + pp - 1)),
        _level([cost + pp * rounds for cost in first], pp * (m - rounds)),
        _level([cost + pp * rounds for cost in own], pp * (m - rounds)),
    ]
    level = min(levels)
    return level.numerator, level.denominator * pp, 2 * sum(r * w for r, w in enumerate(weights)) // pp


def _level(costs: Sequence[int], budget: int) -> Fraction:
    """The level q with sum max(0, q - cost) = budget: water filled over the costs."""
    ordered = sorted(costs)
    total = 0
    for used, cost in enumerate(ordered):
        if used * cost - total >= budget and used:
            return Fraction(budget + total, used)
        total += cost
    return Fraction(budget + total, len(ordered))
