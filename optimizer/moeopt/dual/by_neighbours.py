"""The least replayed step of candidates by what every rank may hold and paths over ranks next to each other.

Weights on critical paths leave a gap, as half of one placement and half of another are within all of them. Here ranks
hold whole layers, in every way that fits into their memory (`contents`), and a way that is long in one chunk is not
made up for by the rank beside it: of two ways next to each other no replay is below the paths that change between them
(`moeopt.schedule.neighbours`). The least over placements of the largest of these is a pass over the ranks by layers
placed.
"""

from itertools import pairwise

import numpy as np

from moeopt.dual.contents import Contents, Filling, Holding, TooMany
from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows
from moeopt.dual.ranks_pass import states
from moeopt.dual.tables import Mask
from moeopt.schedule.neighbours import SLACK, neighbours
from moeopt.schedule.shape import Schedule

_MOST_WAYS = 1500
"""Ways of one rank that are looked at, in one role ..."""
_MOST_CELLS = 2**18
"""... and times those of the next."""


class ByNeighbours:
    """All ranks of one candidate, interleaved."""

    def __init__(self, grid: Grid, rows: Rows, prices: Prices, holding: Holding, deepest: int) -> None:
        """`prices` of one candidate; no stage holds more than the deepest. Raises TooMany."""
        self.grid, self.prices = grid, prices
        self.schedule = Schedule(*rows.schedule)
        self.filling = Filling(grid, rows, prices, holding)
        self._ways: list[Contents] = []
        """Of every rank; none where the ranks do not hold all layers together."""
        for rank in range(grid.pp):
            self._ways.append(self.filling.contents(rank, deepest, _MOST_WAYS))
            if not len(self._ways[-1].total):
                self._ways = []
                return
        most = [int(ways.total.max()) for ways in self._ways]
        spare = sum(most) - self.filling.counted
        full = zip(self._ways, most, strict=True)
        self._ways = [ways.only(ways.total >= each - spare) for ways, each in full] if spare >= 0 else []

    def least_ns(self) -> float:
        """No placement's replayed pipeline is below it; infinite where there is none within the target."""
        if not self._ways:
            return np.inf
        sizes = [len(each.total) for each in self._ways]
        if any(one * other > _MOST_CELLS for one, other in pairwise(sizes)):
            raise TooMany
        counted, prefix = self.filling.counted, self.filling.prefix
        reached = self._first()
        for rank in range(1, self.grid.pp):
            reached = self._onward(rank, reached)
        roles, last = self.filling.roles(self.grid.pp - 1), self._ways[-1]
        ends = np.array([states(role)[1] == (prefix, True) for role in roles])[last.role]
        return float(reached[ends, counted].min(initial=np.inf))

    def _first(self) -> Array:
        """Ways of the first rank x counted layers placed."""
        ways = self._ways[0]
        starts = np.array([states(role)[0] == (0, False) for role in self.filling.roles(0)])
        reached = np.full((len(ways.total), self.filling.counted + 1), np.inf)
        mine = np.flatnonzero(starts[ways.role] & (ways.total <= self.filling.counted))
        alone = self.schedule.num_microbatches * ways.time_ns.sum(axis=1)
        reached[mine, ways.total[mine]] = alone[mine]
        return reached

    def _onward(self, rank: int, before: Array) -> Array:
        """The same after the next rank."""
        pair, ways = self._pair_ns(rank), self._ways[rank]
        reached = np.full((len(ways.total), before.shape[1]), np.inf)
        for placed in np.flatnonzero(np.isfinite(before).any(axis=0)).tolist():
            from_ = np.flatnonzero(np.isfinite(before[:, placed]))
            value = np.maximum(before[from_, placed, None], pair[from_]).min(axis=0)
            to = placed + ways.total
            inside = np.flatnonzero(to < before.shape[1])
            reached[inside, to[inside]] = np.minimum(reached[inside, to[inside]], value[inside])
        return reached

    def _pair_ns(self, rank: int) -> Array:
        """What no replay of two ways next to each other is below; infinite where one does not follow the other, or
        above the target."""
        lower, upper = self._ways[rank - 1], self._ways[rank]
        fills_ns = float(self.filling.fill_ns[rank - 1]), float(self.filling.fill_ns[rank])
        pair, hop_ns = neighbours(self.schedule, rank - 1), float(self.prices.hop_ns[0])
        value = pair.least_ns(_times(lower), _times(upper), fills_ns, hop_ns).astype(float) * (1 - SLACK)
        value[~self._follows(rank, lower, upper) | (value > self.prices.target_ns[0])] = np.inf
        return value

    def _follows(self, rank: int, lower: Contents, upper: Contents) -> Mask:
        left = [states(role)[1] for role in self.filling.roles(rank - 1)]
        right = [states(role)[0] for role in self.filling.roles(rank)]
        fits = np.array([[one == other for other in right] for one in left])
        return np.asarray(fits[lower.role[:, None], upper.role[None, :]])


def _times(ways: Contents) -> Array:
    return np.hstack([ways.forward_ns, ways.backward_ns])
