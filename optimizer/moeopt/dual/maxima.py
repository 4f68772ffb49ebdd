"""The longest stage of every chunk position, all of them together: what UB2 charges for them, and what they leave.

A chance says within which time every position stays. Its price is what UB2 charges where each position reaches it, so
the least price over all chances is right: a placement is priced at its own maxima in one of them.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.dual.contents import TooMany
from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows, duration_ns
from moeopt.dual.tables import Index, Mask
from moeopt.dual.tops import SLACK

Tops: TypeAlias = NDArray[np.int16]
"""Which of the tops of a position; small, as millions of them are compared."""
_MOST = 20_000
"""A base time with more chances is left to the walks."""


@dataclass(frozen=True)
class Maxima:
    """Chances: the index of each position's top (chances x positions), and UB2 but for the rounds' excess (ns)."""

    tops: Tops
    value_ns: Array

    def only(self, which: Mask | Index) -> "Maxima":
        """Some of the chances."""
        return Maxima(self.tops[which], self.value_ns[which])


def least_excess_ns(rows: Rows, grid: Grid, prices: Prices, base_ns: Array | float) -> Array:
    """What UB2 counts at least of all stages of one candidate above base times."""
    work = float(duration_ns(prices.totals)[0])
    return np.asarray(rows.rounds * np.maximum(work - grid.stages * base_ns, 0.0))


def maxima(rows: Rows, grid: Grid, prices: Prices, base_ns: float, tops: list[Array]) -> Maxima:
    """The chances of one candidate that may be within the target: some rank does the mean rank's work, the longest
    stages count among the excess, and the stages hold all work. Raises TooMany."""
    if max(map(len, tops)) > _MOST:
        raise TooMany
    work = float(duration_ns(prices.totals)[0]) if rows.timed else 0.0
    target = float(prices.target_ns[0]) * (1 + SLACK) - rows.schedule[2] * work / grid.pp
    even = least_excess_ns(rows, grid, prices, base_ns)
    chosen, above, held = np.zeros((1, 0), dtype=np.int16), np.zeros(1), np.zeros(1)
    for top in tops:
        above = (above[:, None] + (top - base_ns if rows.surrogate else 0 * top)).reshape(-1)
        held = (held[:, None] + top).reshape(-1)
        number = np.arange(len(top), dtype=np.int16)
        chosen = np.column_stack([np.repeat(chosen, len(top), axis=0), np.tile(number, len(chosen))])
        least = rows.span * base_ns + rows.waves * above + np.maximum(rows.rounds * above, even)
        near = least <= target
        chosen, above, held = chosen[near], above[near], held[near]
        if len(chosen) > _MOST:
            raise TooMany
    enough = grid.pp * held >= work * (1 - SLACK)
    return Maxima(chosen[enough], rows.span * base_ns + rows.waves * above[enough])
