"""Bounds on the time of a pipeline as integer rows over stage times, and the two-sided estimate the ledger uses.

The order of operations is fixed (see `moeopt.schedule.order`), so every path through the fixed graph of operations
gives a linear lower bound on the step's pipeline time T, valid for ALL stage times. The rows below are such paths,
written with f[s], b[s] the forward and backward time of one micro-batch on stage s = chunk * pp + rank, t = f + b,
W_r = sum of t over rank r's chunks, l = one hop between ranks, w_r warm-up forwards, K = ceil(M / G) groups. Hops are
counted as latency of the receiving operation (no rendezvous); under `ep_overlap` a row does not know the time that a
joint forward-backward block hides, so the times given must already be free of it.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import ceil_div
from moeopt.schedule.even import even_ends, even_hops, last_group
from moeopt.schedule.joint import joint_rows
from moeopt.schedule.order import backwards_by_chunk, check_schedule, forwards_by_chunk, warmup_forwards
from moeopt.schedule.path import Path, Row, ends_name, ends_through, evaluate_row
from moeopt.schedule.placement_bound import placement_lower_bound

__all__ = [
    "Row",
    "evaluate_row",
    "ledger_pipeline_ns",
    "lower_bound_ns",
    "lower_bound_rows",
    "placement_lower_bound",
    "row_matrix",
    "ub2",
]

Column: TypeAlias = NDArray[Any]


@lru_cache(maxsize=1024)
def lower_bound_rows(pp: int, vpp: int, num_microbatches: int, group: int, ep_overlap: bool = False) -> tuple[Row, ...]:
    """Rows whose maximum is a lower bound on the pipeline time of every placement; O(pp) of them.

    1F1B: R1 (fill, own work, drain), R2 (the first backward must come back), R4 (stay at a rank, then its last forward
    goes to the end and back) and Z (zigzags through the whole pipeline, which is what pays the hops). Interleaved: R1,
    R2 and R4 with the fronts and tails described at `_interleaved_rows`; under `ep_overlap` over joint blocks, and with
    zigzags between neighbours (`moeopt.schedule.joint`).
    """
    check_schedule(pp, vpp, num_microbatches, group)
    shape = pp, vpp, num_microbatches, group
    if vpp == 1:
        found = _plain_rows(pp, num_microbatches, ep_overlap)
    else:
        found = joint_rows(*shape) if ep_overlap else _interleaved_rows(*shape)
    unique: dict[tuple[tuple[int, ...], tuple[int, ...]], Row] = {}
    for row in found:
        known = unique.get((row.forward, row.backward))
        if known is None or known.hops < row.hops:
            unique[row.forward, row.backward] = row
    return tuple(unique.values())


def _plain_rows(pp: int, num_microbatches: int, ep_overlap: bool) -> list[Row]:
    """1F1B.

    Z(r), for M > pp: micro-batch 0 fills and returns to r, the next a = M-1 - k*pp pairs run at r, then the path
    drops to rank 0, whose next operation is the forward of micro-batch a+pp (rank 0 keeps pp in flight), up and down
    again, and so on k = (M-1) // pp times, to the last micro-batch.
    """
    rows = []
    last, m = pp - 1, num_microbatches
    for r in range(pp):
        warmup = warmup_forwards(pp, 1, m, m, r, ep_overlap)
        rows.append(Path(pp, 1).up(0, 0, r - 1).stay(r, [m], [m]).down(0, 0, r - 1).hop(2 * r).row(f"R1({r})"))
        out_and_back = Path(pp, 1).up(0, 0, last).down(0, 0, last).hop(2 * last)
        rows.append(out_and_back.stay(r, [max(0, m - 1 - warmup)], [m - 1]).row(f"R2({r})"))
        if m >= warmup + 2:
            path = Path(pp, 1).up(0, 0, last).down(0, 0, last).up(0, r + 1, last).down(0, r + 1, last)
            path.stay(r, [m - 1 - warmup], [m - 1 - warmup]).hop(2 * last + 2 * (last - r))
            rows.append(path.row(f"R4({r})"))
        depth = pp + ep_overlap
        trips = (m - 1) // depth
        if trips:
            path = Path(pp, 1)
            for _ in range(trips + 1):
                path.up(0, 0, last).down(0, 0, last).hop(2 * last)
            pairs = m - 1 - trips * depth
            rows.append(path.stay(r, [pairs], [pairs]).row(f"Z({r})"))
    return rows


def _interleaved_rows(pp: int, vpp: int, num_microbatches: int, group: int) -> list[Row]:
    """Interleaved 1F1B, without overlap of the expert all-to-all (with it: `moeopt.schedule.joint`).

    A row is front + middle + tail. Front: until the first backward of rank r can start, as `Path.front`. Middle: the
    operations of r in between, up to the last rank by r's last forward, and the backwards of the last rank before the
    last micro-batch's first one. Tail: the front mirrored in time. R1 (fill, own work, drain) has neither, R2 a front,
    R4 both. A tail alone (R3) was never the largest in 300 realistic placements with backward = 2 forward, and q in
    {last, 0, r, zigzag} loses 0.03 % against every q.
    """
    last, m, total = pp - 1, num_microbatches, num_microbatches * vpp
    counts, size = (vpp, m, group), last_group(m, group)
    every, first = forwards_by_chunk(total, *counts), backwards_by_chunk(1, *counts)
    before_tail = backwards_by_chunk(total - (vpp - 1) * size - 1, *counts)
    waiting = _minus(before_tail, backwards_by_chunk(total - (vpp - 1) * group - 1, *counts))
    evenly, none = even_ends(pp, m, group), [0] * vpp
    rows = []
    for r in range(pp):
        warmup = warmup_forwards(pp, vpp, m, group, r)
        late_forwards = _minus(every, forwards_by_chunk(min(total, warmup + 1), *counts))
        path = Path(pp, vpp).up(0, 0, r - 1).stay(r, every, every).down(0, 0, r - 1).hop(2 * r)
        rows.append(path.row(f"R1({r})"))
        for q in dict.fromkeys((r, None)):
            path = Path(pp, vpp).front(q, group).down(vpp - 1, r, last).hop(last - r)
            path.stay(r, late_forwards, _minus(every, first)).down(0, 0, r - 1).hop(r)
            rows.append(path.row(f"R2({ends_name(q)},{r})"))
        if total < warmup + 2:
            continue
        middle = _minus(backwards_by_chunk(total - 1 - warmup, *counts), first)
        for fill, drain in ends_through(r, pp, evenly):
            path = Path(pp, vpp).front(fill, group).down(vpp - 1, r, last).stay(r, late_forwards, middle)
            path.up(vpp - 1, r + 1, last).hop(2 * (last - r)).stay(last, none, waiting).tail(drain, size)
            rows.append(path.row(f"R4({ends_name(fill, drain)},{r})"))
    return rows


def _minus(counts: Sequence[int], less: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(counts, less, strict=True)]


def ub2(pp: int, vpp: int, num_microbatches: int, group: int, stage_ns: Sequence[int]) -> int:
    """Surrogate upper estimate of an interleaved pipeline without hops, exactly minimised over the base time x0 >= 0.
    Hops, which depend on no stage, are added to it: those of the uniform pipeline, `even_hops`.

    UB2 = (Mv + p-1) x0 + sum_c [(M-K) max_r e[r,c] + K sum_r e[r,c]], e = max(0, t - x0): a uniform pipeline of chunk
    time x0 plus the waves of what exceeds it (a wave of G equal jobs over a line costs its sum plus G-1 times its
    maximum). Not a proven upper bound: replays of 0.1 % of realistic placements were above it. It is convex and
    piecewise linear in x0 with breakpoints at the stage times, so the minimum is at one of them (integers), or at 0.
    """
    groups = 1 if vpp == 1 else ceil_div(num_microbatches, group)
    chunks = [stage_ns[chunk * pp : (chunk + 1) * pp] for chunk in range(vpp)]

    def value(base: int) -> int:
        total = (num_microbatches * vpp + pp - 1) * base
        for times in chunks:
            excess = [time - base for time in times if time > base]
            if excess:
                total += (num_microbatches - groups) * max(excess) + groups * sum(excess)
        return total

    points = sorted({0, *stage_ns})
    low, high = 0, len(points) - 1
    while low < high:
        middle = (low + high) // 2
        if value(points[middle]) <= value(points[middle + 1]):
            high = middle
        else:
            low = middle + 1
    return value(points[low])


@lru_cache(maxsize=256)
def row_matrix(pp: int, vpp: int, num_microbatches: int, group: int, ep_overlap: bool) -> tuple[Column, int]:
    """Coefficients of every row over (forward, backward, hop), and the largest sum of one row."""
    rows = lower_bound_rows(pp, vpp, num_microbatches, group, ep_overlap)
    matrix = np.array([(*row.forward, *row.backward, row.hops) for row in rows], dtype=np.int64)
    return matrix, int(matrix.sum(axis=1).max())


def lower_bound_ns(
    pp: int,
    vpp: int,
    num_microbatches: int,
    group: int,
    forward_ns: Sequence[int],
    backward_ns: Sequence[int],
    hop_ns: int,
    ep_overlap: bool = False,
) -> int:
    """The largest row: no replay of these stage times is faster."""
    matrix, coefficients = row_matrix(pp, vpp, num_microbatches, group, ep_overlap)
    times = [*forward_ns, *backward_ns, hop_ns]
    if coefficients * max(times) < 2**63:
        return int((matrix @ np.array(times, dtype=np.int64)).max())
    rows = lower_bound_rows(pp, vpp, num_microbatches, group, ep_overlap)
    return max(evaluate_row(row, forward_ns, backward_ns, hop_ns) for row in rows)


def ledger_pipeline_ns(
    pp: int,
    vpp: int,
    num_microbatches: int,
    group: int,
    forward_ns: Sequence[int],
    backward_ns: Sequence[int],
    hop_ns: int,
    ep_overlap: bool = False,
) -> int:
    """The ledger's pipeline time: 1F1B the largest row, interleaved the middle of the largest row and UB2, rounded up.

    Equal stages without hops take (M v + p - 1)(f + b) exactly; interleaved with short hops as long as a replay or one
    hop less. Uneven: within 0.3 % of a replay for 1F1B, and 1 to 3 % for realistic interleaved placements (facts
    measured on an event replay, see docs/schedule.md).
    """
    rows = lower_bound_ns(pp, vpp, num_microbatches, group, forward_ns, backward_ns, hop_ns, ep_overlap)
    if vpp == 1:
        return rows
    times = [forward + backward for forward, backward in zip(forward_ns, backward_ns, strict=True)]
    upper = ub2(pp, vpp, num_microbatches, group, times)
    upper += even_hops(pp, vpp, num_microbatches, group, ep_overlap) * hop_ns
    return int(ceil_div(rows + upper, 2))
