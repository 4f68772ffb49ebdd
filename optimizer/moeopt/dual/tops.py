"""What UB2 ranges over: base times, and the longest stage of each chunk position. Both are times that stages may have.

UB2 is convex in its base time and breaks at the times of stages, so its least value for a placement is at one of these,
or at zero. Times that cannot be within the target are left out by what holds for every placement: a row is at least M
times the mean rank, and UB2 with base x at least (Mv+p-1) x + ((M-K)/p + K) (W - S x).
"""

import numpy as np

from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows, duration_ns
from moeopt.dual.tables import Index

SLACK = 1e-9
"""Share of a bound that is given away for the rounding of floats."""


def deepest_stage(grid: Grid, prices: Prices) -> int:
    """Most layers of a stage within the longest time and the bytes of any candidate; one micro-batch at least is in
    flight on each stage at some time."""
    room = prices.room.max(axis=1)
    for count in range(1, len(grid.layers) + 1):
        held = prices.windows(count)
        shortest = (held[:, 0] + held[:, 1]).min(axis=1)
        lightest = (held[:, 2] + held[:, 3]).min(axis=1)
        if ((shortest > prices.longest_ns) | (lightest > room)).all():
            return count - 1
    return len(grid.layers)


def _stage_times(grid: Grid, prices: Prices, chunk: int, deepest: int) -> Array:
    """Every time that a stage of a chunk position may take: candidates x times, `inf` where a candidate has fewer."""
    if not prices.by_block:
        return _times_under(grid, prices, chunk, deepest, 0)
    groups = [(block, prices.block_layers == block) for block in np.unique(prices.block_layers).tolist()]
    found = [(mask, _times_under(grid, prices.only(mask), chunk, deepest, block)) for block, mask in groups]
    result = np.full((len(prices.block_layers), max(times.shape[1] for _, times in found)), np.inf)
    for mask, times in found:
        result[mask, : times.shape[1]] = times
    return result


def _times_under(grid: Grid, prices: Prices, chunk: int, deepest: int, block_layers: int) -> Array:
    """The same of candidates that recompute so many layers by block."""
    kinds = np.hstack([duration_ns(prices.kinds), duration_ns(prices.again)])
    counts, begins = grid.compositions(chunk, deepest, block_layers)
    layers = kinds @ counts.T
    embedding, mtp, loss = (duration_ns(piece)[:, None] for piece in (prices.embedding, prices.mtp, prices.loss))
    times = [layers + embedding * begins]
    if chunk == grid.vpp - 1:
        times += [times[0] + loss, times[0] + mtp, times[0] + mtp + loss] if grid.mtp_layers else [times[0] + loss]
    return np.concatenate(times, axis=1)


def base_times(grid: Grid, rows: Rows, prices: Prices, deepest: int, one: bool) -> tuple[Index, Array]:
    """The base times that the least UB2 within the target may have, candidate by candidate: UB2 is convex and its
    breakpoints are the times of stages, or zero."""
    size = len(prices.target_ns)
    if not rows.surrogate:
        return np.arange(size), np.zeros(size)
    chunks = dict.fromkeys((0, min(1, grid.vpp - 1), grid.vpp - 1))
    times = np.concatenate([_stage_times(grid, prices, chunk, deepest) for chunk in chunks], axis=1)
    times = _distinct(np.concatenate([np.zeros((size, 1)), times], axis=1))
    work = duration_ns(prices.totals)[:, None]
    share = rows.waves + rows.rounds * grid.pp
    least = rows.span * times + share * np.maximum(work - grid.stages * times, 0) / grid.pp
    near = (times <= prices.longest_ns[:, None]) & (least + _least_row(grid, rows, prices)[:, None] <= _reach(prices))
    if one:
        near &= least == np.where(near, least, np.inf).min(axis=1)[:, None]
    of, column = np.nonzero(near)
    return of, times[of, column]


def tops_of(grid: Grid, rows: Rows, prices: Prices, chunk: int, deepest: int, base: Array) -> Array:
    """The maxima that a chunk position may have within the target: rows x tops, the base time first."""
    if not rows.surrogate:
        return np.asarray(prices.longest_ns[:, None])
    times = _stage_times(grid, prices, chunk, deepest)
    above = times - base[:, None]
    least = rows.span * base[:, None] + (rows.waves + rows.rounds) * above + _least_row(grid, rows, prices)[:, None]
    near = (above > 0) & (times <= prices.longest_ns[:, None]) & (least <= _reach(prices))
    times = _distinct(np.where(near, times, np.inf))
    most = int(np.isfinite(times).sum(axis=1).max(initial=0))
    return np.concatenate([base[:, None], times[:, :most]], axis=1)


def _distinct(times: Array) -> Array:
    """Sorted along the last axis, repeated ones made infinite and put last."""
    ordered = np.sort(times, axis=1)
    again = np.zeros(ordered.shape, dtype=bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return np.sort(np.where(again, np.inf, ordered), axis=1)


def _least_row(grid: Grid, rows: Rows, prices: Prices) -> Array:
    """M times the mean rank."""
    return rows.schedule[2] * duration_ns(prices.totals) / grid.pp


def _reach(prices: Prices) -> Array:
    """The target with the slack that floats need."""
    return np.asarray(prices.target_ns[:, None] * (1 + SLACK))
