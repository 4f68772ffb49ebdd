"""How long one chunk may take in any placement that stays within a known time: what makes bounds and proofs tight.

1F1B: M times the longest stage is a row, and 2 W + (M - p - 1) times it is below one (see `placement_bound`).

Interleaved, symbols as in `moeopt.schedule.bounds`; W is the work of one micro-batch through all stages. Let some chunk
position c have its longest chunk at tau. For any base x0 <= tau,
    UB2 >= (Mv+p-1) x0 + (M-K)(tau - x0) + K * cheap + ((M-K)/p + K) * dear,
where the excess over x0 of all stages, at least W - p v x0, is put where it costs least: `cheap` on position c, which
can hold p (tau - x0) without raising its maximum, and `dear` on the other positions, where each unit raises a mean and
so a maximum. The right side is convex and piecewise linear in x0, so its minimum is at one of four points. It grows
with tau beyond the mean, so a bisection gives the largest tau that the ledger's time allows.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.arithmetic import Number, maximum

Column: TypeAlias = NDArray[np.float64]
_SLACK = 1e-9
"""Floats here are wrong by less than one part in 10^12; bounds give this much away."""
_BISECTIONS = 24


class Surrogate(NamedTuple):
    """A lower bound on UB2 of every placement of some work (vpp > 1; symbols as above): what the longest chunk does not
    change is there once."""

    p: Column
    w: Column
    stages: Column
    span: Column
    waves: Column
    groups: Column
    dear: Column
    others: Column
    """Stages of the other positions."""

    @classmethod
    def of(cls, pp: Number, vpp: Number, num_microbatches: Number, group: Number, work_ns: Number) -> "Surrogate":
        """Of integers or columns."""
        p, v, m, g, w = (np.asarray(x, dtype=np.float64) for x in (pp, vpp, num_microbatches, group, work_ns))
        groups = np.ceil(m / g)
        waves = m - groups
        return cls(p, w, p * v, m * v + p - 1, waves, groups, waves / p + groups, np.maximum(p * (v - 1), 1))

    def at_least(self, tau: Column) -> Column:
        """Where the longest chunk takes so long or longer."""
        points = np.zeros((4, *np.broadcast_shapes(self.w.shape, self.others.shape, tau.shape)))
        points[1], points[2], points[3] = tau, (self.w - tau) / (self.stages - 1), (self.w - self.p * tau) / self.others
        base = np.minimum(np.maximum(points, 0.0, out=points), tau, out=points)
        above = tau - base
        excess = np.maximum(self.w - self.stages * base, above)
        cheap = np.minimum(excess, self.p * above)
        values = self.span * base + self.waves * above + self.groups * cheap + self.dear * (excess - cheap)
        return np.asarray(values.min(axis=0) * (1 - _SLACK))


def longest_chunk_ns(
    pp: Number, vpp: Number, num_microbatches: Number, group: Number, work_ns: Number, limit_ns: Number
) -> NDArray[np.int64]:
    """The longest chunk (forward + backward of one micro-batch) of any placement whose ledger time is within the limit.

    Integers or columns in, a column out (rounded up, never too small).
    """
    p, v, m, w = (np.asarray(x, dtype=np.float64) for x in (pp, vpp, num_microbatches, work_ns))
    limit = np.asarray(limit_ns, dtype=np.float64) * (1 + _SLACK)
    plain = np.minimum(limit / m, np.where(m > p + 1, (limit - 2 * w) / np.maximum(m - p - 1, 1), np.inf))
    low, high = np.broadcast_arrays(w / (p * v), limit / m)
    low, high = low.copy(), np.maximum(high, low)
    surrogate, row, most = Surrogate.of(p, np.maximum(v, 2), m, group, w), m * w / p, 2 * limit
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        within = row + surrogate.at_least(middle) <= most
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return np.ceil(np.where(v == 1, np.maximum(plain, 0), high)).astype(np.int64) + 1


def longest_rank_ns(
    pp: Number, vpp: Number, num_microbatches: Number, work_ns: Number, limit_ns: Number
) -> NDArray[np.int64]:
    """The longest that one rank may take for one micro-batch when the ledger's pipeline time is within the limit.

    M times a rank's work is a row. 1F1B: the row is the time. Interleaved: the time is the middle of the rows and UB2,
    which is at least (M v + p - 1) times the mean chunk.
    """
    surrogate = (num_microbatches * vpp + pp - 1) * (work_ns // (pp * vpp))
    chunked = maximum(2 * limit_ns - surrogate, 0) // num_microbatches
    return np.asarray(np.where(vpp == 1, limit_ns // num_microbatches, chunked))
