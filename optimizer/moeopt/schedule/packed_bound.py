"""Bounds on the ledger's pipeline time that know how many layers go into a stage beside the embedding, the MTP modules
and the loss. Everything is a column over rows; times are forward + backward of one micro-batch.

An ordinary stage of time tau holds n(tau) layers at most: none below `first`, then one, and one more for each further
`more`. The stage with the embedding (and layers that only come first, which count nothing) and those with the loss and
the MTP modules hold what fits beside these; no layer comes after the MTP modules.

A rank takes R at least, where R is the smallest time in which all ranks together hold the layers.

UB2 = min over x of (Mv+p-1) x + sum_c [(M-K) max_r e + K sum_r e], e what a stage exceeds x by. Chunk positions with
maximum x + E_c hold all layers only if sum_c N_c(x + E_c) >= L. An inner position gains p layers at most by going up to
the next level above x, and p by each further `more`, and so do the first and the last one beyond their next levels; the
first few levels of these two are tried one by one. Of the layers needed above what x holds, all but those on the three
special stages exceed x by what an ordinary stage does. Between breakpoints of n the cost is a minimum of linear
functions of x, so its minimum over x is at one of them. Levels far below the mean are bounded by the mean, levels far
above by (Mv+p-1) x.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import Number

Column = NDArray[np.int64]
_BISECTIONS = 48
_NEAR = 2
"""Levels tried below and above the mean stage."""


@dataclass(frozen=True)
class Load:
    """What is to be placed: `layers` that count; the least time of one layer on a stage and of each further one; the
    other pieces (columns, ns). `leading` layers that only come first and count nothing take `leading_ns`."""

    layers: int
    first: Column
    more: Column
    embedding: Column
    loss: Column
    mtp: Column
    leading: int
    leading_ns: Column
    """Zero where there are not more than leading + 1 ranks: they might reach the last one."""
    work: Column
    """All pieces together."""

    def held(self, time: Column) -> Column:
        """Layers that an ordinary stage holds within a time."""
        return np.asarray(np.where(time < self.first, 0, 1 + (time - self.first) // np.maximum(self.more, 1)))

    def first_units(self, time: Column, units: Number, beside: Number = 0) -> Column:
        """Layers of the first units of a time: the embedding and the leading layers displace some, spread over as many
        units as displaces fewest. `beside`: what else takes time there."""
        whole = self.held(time)
        taken = self.embedding + self.leading_ns + beside
        best = np.full(np.broadcast(time, self.first).shape, -(10**6), dtype=np.int64)
        for touched in range(1, self.leading + 3):
            left = touched * time - taken
            there = np.minimum(np.where(left < 0, -(10**6), _room(left, self, touched)), touched * whole)
            best = np.where(touched <= units, np.maximum(best, there + (units - touched) * whole), best)
        return best

    def last_units(self, time: Column, units: Number) -> Column:
        """Layers of the last units of a time."""
        whole = self.held(time)
        none = -(10**6)
        together = np.where(time < self.loss + self.mtp, none, self.held(time - self.loss - self.mtp))
        result = together + (units - 1) * whole
        apart = np.where((time < self.mtp) | (time < self.loss), none, self.held(time - self.mtp))
        apart = np.where(units >= 2, apart + (units - 2) * whole, none)
        return np.asarray(np.where(self.mtp > 0, np.maximum(result, apart), result))


def _room(left: Column, load: Load, units: int) -> Column:
    """Layers in what is left of several units: j of them in one take first + (j - 1) more at least."""
    lighter = units * np.maximum(load.more - load.first, 0)
    return np.asarray((left + lighter) // np.maximum(load.more, 1))


def heaviest_rank_ns(pp: Column, load: Load) -> Column:
    """The least time of the heaviest rank, for one micro-batch."""
    low, high = load.work // pp, load.work + 1
    for _ in range(_BISECTIONS):
        middle = (low + high) // 2
        enough = _all_ranks(pp, load, middle) >= load.layers
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.asarray(np.maximum(high, -(-load.work // pp)))


def _all_ranks(pp: Column, load: Load, time: Column) -> Column:
    """Layers of all ranks within a time each."""
    whole, none = load.held(time), -(10**6)
    last = np.where(time < load.loss, none, load.held(time - load.loss))
    with_mtp = np.where(time < load.mtp, none, load.held(time - load.mtp))
    together = np.where(time < load.loss + load.mtp, none, load.held(time - load.loss - load.mtp))
    modules = np.maximum(together, with_mtp + last - whole)
    several = np.maximum(pp, 2)
    ranks = load.first_units(time, several - 1) + np.where(load.mtp > 0, modules, last)
    shared = load.first_units(time, several - 1, load.mtp) + last
    ranks = np.where(load.mtp > 0, np.maximum(ranks, shared), ranks)
    return np.asarray(np.where(pp == 1, whole, ranks))


def ub2_packed_ns(pp: Column, vpp: Column, num_microbatches: Column, group: Column, load: Load) -> Column:
    """UB2 of any placement (vpp > 1; meaningless elsewhere)."""
    v = np.maximum(vpp, 2)
    shape = _Shape(pp, v, num_microbatches, -(-num_microbatches // group))
    points, outside = _points(shape, load)
    costs = [_cost_at(x, shape, load) for x in points]
    return np.asarray(np.maximum(*(np.minimum.reduce([outside, *column]) for column in zip(*costs, strict=True))))


@dataclass(frozen=True)
class _Shape:
    pp: Column
    v: Column
    microbatches: Column
    rounds: Column

    @property
    def span(self) -> Column:
        return np.asarray(self.microbatches * self.v + self.pp - 1)

    @property
    def waves(self) -> Column:
        return np.asarray(self.microbatches - self.rounds)


def _points(shape: _Shape, load: Load) -> tuple[list[Column], Column]:
    """Breakpoints near the mean stage, and a bound for every base time outside of them."""
    stages = shape.pp * shape.v
    lowest = np.maximum(load.layers // stages - _NEAR, 0)
    levels = [_level(load, lowest + step) for step in range(2 * _NEAR + 3)]
    extras = [0 * load.loss, load.embedding, load.loss]
    if load.mtp.any():
        extras += [load.mtp, load.mtp + load.loss]
    if load.leading_ns.any():
        extras.append(load.embedding + load.leading_ns)
    points = [np.asarray(level + extra) for level in levels for extra in extras]
    share = shape.waves + shape.rounds * shape.pp
    below = shape.span * levels[0] + share * np.maximum(load.work - stages * levels[0], 0) // shape.pp
    below = np.where(lowest == 0, np.iinfo(np.int64).max, below)
    return points, np.minimum(below, shape.span * levels[-1])


def _level(load: Load, layers: Column) -> Column:
    """The least time of an ordinary stage with so many layers."""
    return np.asarray(np.where(layers <= 0, 0, load.first + (layers - 1) * load.more))


def _cost_at(x: Column, shape: _Shape, load: Load) -> tuple[Column, Column]:
    """The least UB2 with base time x, twice: sum_r e bounded by each position's maximum, and by layers above x."""
    pp, inner = shape.pp, shape.v - 2
    held = load.held(x)
    rise = _level(load, held + 1) - x
    once = np.minimum(rise, load.more)
    above = _raised(np.maximum(load.layers - pp * shape.v * held, 0), pp * shape.v, once, load.more)
    at, following = _options(x, held, load, (load.embedding, load.embedding + load.leading_ns))
    up_first, layers_first = at - x, load.first_units(following - 1, pp)
    endings = (load.loss, load.mtp, load.mtp + load.loss) if load.mtp.any() else (load.loss,)
    at, following = _options(x, held, load, endings)
    up_last, layers_last = at - x, load.last_units(following - 1, pp)
    needed = load.layers - inner * pp * held - layers_first[:, None] - layers_last[None]
    rises = np.maximum(-(-needed // pp), 0)
    raised = up_first[:, None] + up_last[None] + _raised(rises, inner, once, load.more)
    maxima = raised.min(axis=(0, 1))
    base = shape.span * x + shape.waves * maxima
    return base + shape.rounds * maxima, base + shape.rounds * above


def _raised(rises: Column, places: Column, once: Column, more: Column) -> Column:
    """So many rises at least: each place once at one price, all others at another."""
    return np.asarray(np.minimum(rises, places) * once + np.maximum(rises - places, 0) * more)


def _options(x: Column, held: Column, load: Load, extras: tuple[Column, ...]) -> tuple[Column, Column]:
    """Maxima of a position from x on, and the next breakpoint above each; the last one's next is just above itself."""
    levels = [_level(load, held + step) for step in (0, 1, 2)]
    points = [x, *levels[1:], *(level + extra for level in levels for extra in extras)]
    ordered = np.sort(np.maximum(np.stack(points), x), axis=0)
    return ordered, np.concatenate([ordered[1:], ordered[-1:] + 1])
