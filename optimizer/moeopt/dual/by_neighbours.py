"""The least replayed step of candidates by what every rank may hold and paths over ranks next to each other.

Weights on critical paths leave a gap, as half of one placement and half of another are within all of them. Here ranks
hold whole layers, in every way that fits into their memory (`contents`), and a way that is long in one chunk is not
made up for by the rank beside it: of two ways next to each other no replay is below the paths that change between them
(`moeopt.schedule.neighbours`). The least over placements of the largest of these is a pass over the ranks by layers
placed.
"""

from functools import cached_property
from itertools import pairwise

import numpy as np

from moeopt.dual.chains import Chains
from moeopt.dual.contents import Contents, Filling, Holding, TooMany
from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows
from moeopt.dual.ranks_pass import State, states
from moeopt.dual.tables import Mask
from moeopt.dual.walks import Placements
from moeopt.schedule.neighbours import SLACK, Within, neighbours
from moeopt.schedule.shape import Schedule
from moeopt.schedule.tree_join import TooManyPairs

_MOST_WAYS = 8000
"""Ways of one rank that are looked at, in one role ..."""
_MOST_CELLS = 2**20
"""... and pairs of ways of two ranks, or of parts of these."""


class ByNeighbours:
    """All ranks of one candidate, interleaved."""

    def __init__(self, grid: Grid, rows: Rows, prices: Prices, holding: Holding, deepest: int) -> None:
        """`prices` of one candidate; no stage holds more than the deepest. Raises TooMany."""
        self.grid, self.prices = grid, prices
        self.schedule = Schedule(*rows.schedule)
        self.filling = Filling(grid, rows, prices, holding)
        most = np.array([self.filling.most(rank, deepest) for rank in range(grid.pp)])
        spare = most.sum() - self.filling.counted
        self._ways: list[Contents] = []
        """Of every rank; none where the ranks do not hold all layers together."""
        self._links: dict[int, Within] = {}
        """By rank: which ways follow which of the rank before."""
        if spare >= 0:
            for rank in range(grid.pp):
                self._ways.append(self.filling.contents(rank, deepest, _MOST_WAYS, most[rank] - spare))
        self._alive = [np.ones(len(ways.total), dtype=bool) for ways in self._ways]
        self._is_open = bool(self._ways) and self._leave_out_by_total() and self._link()

    @cached_property
    def least_ns(self) -> float:
        """No placement's replayed pipeline is below it; infinite where there is none within the target."""
        if not self._is_open:
            return np.inf
        reached = self._first()
        for rank in range(1, self.grid.pp):
            reached = self._onward(rank, reached)
        return float(reached[self._end, self.filling.counted].min(initial=np.inf))

    def placements(self, most: int) -> Placements | None:
        """All placements whose ranks next to each other are within the target, if there are at most so many."""
        totals, links = [ways.total for ways in self._ways], [self._links[rank] for rank in range(1, self.grid.pp)]
        chains = Chains(totals, links, self._begin, self._end, self.filling.counted).listed(most)
        if chains is None:
            return None
        counts = np.zeros((len(chains), self.grid.stages), dtype=np.int64)
        ending = np.full(len(chains), self.grid.stages - 1)
        for rank, ways in enumerate(self._ways):
            mine, roles = ways.only(chains[:, rank]), self.filling.roles(rank)
            counts[:, rank :: self.grid.pp] = mine.counts
            counts[:, rank] += np.array([role.taken for role in roles])[mine.role]
            ending[np.array([role.phase == 1 for role in roles])[mine.role]] = self.grid.final + rank
        return Placements(counts, ending)

    @property
    def _begin(self) -> Mask:
        """Ways of the first rank with no layer before them."""
        starts = np.array([state == (0, False) for state in self._states(0, 0)])
        return np.asarray(starts[self._ways[0].role] & self._alive[0])

    @property
    def _end(self) -> Mask:
        """Ways of the last rank with no layer after them."""
        ends = np.array([state == (self.filling.prefix, True) for state in self._states(self.grid.pp - 1, 1)])
        return np.asarray(ends[self._ways[-1].role] & self._alive[-1])

    def _states(self, rank: int, side: int) -> list[State]:
        """Before (0) or after (1) a rank, by role."""
        return [states(role)[side] for role in self.filling.roles(rank)]

    def _leave_out_by_total(self) -> bool:
        """Leave out ways beside which the other ranks hold too few or too many layers for all together; whether any is
        left of every rank."""
        for sign in (1, -1):  # at most, at least
            before, after = self._besides(sign), self._besides(sign, back=True)
            for ways, alive, *sums in zip(self._ways, self._alive, before, after, strict=True):
                alive &= sum(sums) + sign * ways.total >= sign * self.filling.counted
        return all(alive.any() for alive in self._alive)

    def _besides(self, sign: int, back: bool = False) -> list[Array]:
        """Layers of the ranks before each rank's ways, or after them (`back`), times the sign, at most: by the ways
        that may be next to each other where that is known."""
        ranks = range(self.grid.pp)[:: -1 if back else 1]
        found = {ranks[0]: np.zeros(len(self._ways[ranks[0]].total))}
        for rank, next_ in pairwise(ranks):
            held = np.where(self._alive[rank], found[rank] + sign * self._ways[rank].total, -np.inf)
            link = self._links.get(max(rank, next_))
            if link is None:
                found[next_] = np.full(len(self._ways[next_].total), held.max(initial=-np.inf))
            else:
                found[next_] = np.full(len(self._ways[next_].total), -np.inf)
                come, go = (link.upper, link.lower) if back else (link.lower, link.upper)
                np.maximum.at(found[next_], go, held[come])
        return [found[rank] for rank in range(self.grid.pp)]

    def _link(self) -> bool:
        """Find which ways may be next to each other, fewest first; False where some rank is left with none."""
        todo = set(range(1, self.grid.pp))
        while todo:
            sizes = [int(alive.sum()) for alive in self._alive]
            rank = min(todo, key=lambda each: sizes[each - 1] * sizes[each])
            todo.remove(rank)
            self._links[rank] = self._linked(rank)
            if not self._leave_out_single():
                return False
        return True

    def _leave_out_single(self) -> bool:
        """Leave out ways that nothing is next to, and what falls with them; whether any is left of every rank."""
        before = -1
        while before != (before := sum(int(alive.sum()) for alive in self._alive)):
            for rank, link in self._links.items():
                link = link.only(self._alive[rank - 1][link.lower] & self._alive[rank][link.upper])
                self._links[rank] = link
                for beside, way in ((rank - 1, link.lower), (rank, link.upper)):
                    met = np.zeros(len(self._alive[beside]), dtype=bool)
                    met[way] = True
                    self._alive[beside] &= met
            if not self._leave_out_by_total():
                return False
        return True

    def _linked(self, rank: int) -> Within:
        """The ways of the rank before and of a rank whose paths are within the target, state by state between them."""
        lower, upper = self._ways[rank - 1], self._ways[rank]
        pair, hop_ns = neighbours(self.schedule, rank - 1), float(self.prices.hop_ns[0])
        fills_ns = float(self.filling.fill_ns[rank - 1]), float(self.filling.fill_ns[rank])
        left, right, found = self._states(rank - 1, 1), self._states(rank, 0), [Within.none()]
        for state in dict.fromkeys(left):
            one, other = (
                np.flatnonzero(alive & np.array([each == state for each in sides])[ways.role])
                for ways, sides, alive in ((lower, left, self._alive[rank - 1]), (upper, right, self._alive[rank]))
            )
            limit_ns = float(self.prices.target_ns[0]) / (1 - SLACK)
            times = _times(lower.only(one)), _times(upper.only(other))
            try:
                near = pair.within(*times, fills_ns, hop_ns, limit_ns, _MOST_CELLS)
            except TooManyPairs as error:
                raise TooMany from error
            found.append(Within(one[near.lower], other[near.upper], near.ns))
        return Within(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _first(self) -> Array:
        """Ways of the first rank x counted layers placed."""
        ways = self._ways[0]
        reached = np.full((len(ways.total), self.filling.counted + 1), np.inf)
        mine = np.flatnonzero(self._begin & (ways.total <= self.filling.counted))
        alone = self.schedule.num_microbatches * ways.time_ns.sum(axis=1)
        reached[mine, ways.total[mine]] = alone[mine]
        return reached

    def _onward(self, rank: int, before: Array) -> Array:
        """The same after the next rank."""
        link, ways = self._links[rank], self._ways[rank]
        order = np.argsort(link.upper, kind="stable")
        lower, upper, ns = link.lower[order], link.upper[order], link.ns[order].astype(float) * (1 - SLACK)
        begins = np.flatnonzero(np.diff(upper, prepend=-1))
        reached = np.full((len(ways.total), before.shape[1]), np.inf)
        for placed in np.flatnonzero(np.isfinite(before).any(axis=0)).tolist():
            if not len(begins):
                break
            value = np.minimum.reduceat(np.maximum(before[lower, placed], ns), begins)
            met, to = upper[begins], placed + ways.total[upper[begins]]
            inside = to < before.shape[1]
            reached[met[inside], to[inside]] = np.minimum(reached[met[inside], to[inside]], value[inside])
        return reached


def _times(ways: Contents) -> Array:
    return np.hstack([ways.forward_ns, ways.backward_ns])
