"""The least replayed step of candidates by what every rank may hold and paths over ranks next to each other.

Weights on critical paths leave a gap, as half of one placement and half of another are within all of them. Here ranks
hold whole layers, in every way that fits into their memory (`contents`), and a way that is long in one chunk is not
made up for by the rank beside it: of two ways next to each other no replay is below the paths that change between them
(`moeopt.schedule.neighbours`). The least over placements of the largest of these is a pass over the ranks by layers
placed; and where few ways are left, all placements can be listed (`chains`).
"""

from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from moeopt.dual.chains import Chains
from moeopt.dual.contents import Contents, Filling, Holding, TooMany
from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows
from moeopt.dual.ranks_pass import State, states
from moeopt.dual.tables import Index, Mask
from moeopt.dual.walks import Placements
from moeopt.schedule.neighbours import SLACK, Ways, Within, neighbours
from moeopt.schedule.shape import Schedule
from moeopt.schedule.tree_join import TooManyPairs


class Width(NamedTuple):
    """How much is looked at of a candidate, at most: ways of one rank in one role; pairs of ways of two ranks, or of
    parts of these; and operations of the placements that are left, which are replayed."""

    ways: int
    pairs: int
    operations: int


NARROW, WIDE, WIDEST = Width(1000, 2**18, 10**7), Width(8000, 2**21, 4 * 10**7), Width(10_000, 2**23, 5 * 10**8)
"""Some hundredths of a second at most; some tenths; some seconds."""


class ByNeighbours:
    """All ranks of one candidate, interleaved."""

    def __init__(
        self, grid: Grid, rows: Rows, prices: Prices, holding: Holding, deepest: int, width: Width = WIDE
    ) -> None:
        """`prices` of one candidate; no stage holds more than the deepest. Raises TooMany."""
        self.grid, self.prices, self.width = grid, prices, width
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
                self._ways.append(self.filling.contents(rank, deepest, width.ways, most[rank] - spare))
        self._alive = [np.ones(len(ways.total), dtype=bool) for ways in self._ways]
        self._is_open = bool(self._ways) and self._leave_out() and self._link()

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

    def _leave_out(self) -> bool:
        """Leave out ways with which no chain of ways through all ranks holds all layers, as far as it is known which
        ways may be next to each other; whether any is left of every rank."""
        before, after = self._most_beside(range(self.grid.pp)), self._most_beside(range(self.grid.pp)[::-1])
        for rank, (ways, alive) in enumerate(zip(self._ways, self._alive, strict=True)):
            alive &= before[rank] + ways.total + after[rank] >= self.filling.counted
        return all(alive.any() for alive in self._alive)

    def _most_beside(self, ranks: range) -> dict[int, Array]:
        """By rank, layers of the ranks that come before it in an order, at most, by its ways; below all that there are
        where a way follows none."""
        found = {ranks[0]: np.zeros(len(self._ways[ranks[0]].total))}
        for rank, next_ in pairwise(ranks):
            held = np.where(self._alive[rank], found[rank] + self._ways[rank].total, -np.inf)
            link = self._links.get(max(rank, next_))
            if link is None:
                found[next_] = np.full(len(self._ways[next_].total), held.max(initial=-np.inf))
            else:
                found[next_] = np.full(len(self._ways[next_].total), -np.inf)
                come, go = (link.lower, link.upper) if rank < next_ else (link.upper, link.lower)
                np.maximum.at(found[next_], go, held[come])
        return found

    def _link(self) -> bool:
        """Find which ways may be next to each other, fewest first; False where some rank is left with none."""
        todo = set(range(1, self.grid.pp))
        while todo:
            sizes = [int(np.count_nonzero(alive)) for alive in self._alive]
            rank = min(todo, key=lambda each: sizes[each - 1] * sizes[each])
            todo.remove(rank)
            self._links[rank] = self._linked(rank)
            if not self._leave_out():
                return False
        for rank, link in self._links.items():
            self._links[rank] = link.only(self._alive[rank - 1][link.lower] & self._alive[rank][link.upper])
        return True

    def _linked(self, rank: int) -> Within:
        """The ways of the rank before and of a rank whose paths are within the target."""
        pair, hop_ns = neighbours(self.schedule, rank - 1), float(self.prices.hop_ns[0])
        fills_ns = float(self.filling.fill_ns[rank - 1]), float(self.filling.fill_ns[rank])
        limit_ns = float(self.prices.target_ns[0]) / (1 - SLACK)
        states = list(dict.fromkeys([*self._states(rank - 1, 1), *self._states(rank, 0)]))
        left, right = (np.flatnonzero(self._alive[each]) for each in (rank - 1, rank))
        lower, upper = self._timed(rank - 1, left, 1, states), self._timed(rank, right, 0, states)
        try:
            near = pair.within(lower, upper, fills_ns, hop_ns, limit_ns, self.width.pairs)
        except TooManyPairs as error:
            raise TooMany from error
        return Within(left[near.lower], right[near.upper], near.ns)

    def _timed(self, rank: int, index: Index, side: int, states: list[State]) -> Ways:
        """Some ways of a rank and where they end or begin, in numbers of these states."""
        mine = self._ways[rank].only(index)
        places = np.array([states.index(state) for state in self._states(rank, side)])
        return Ways(np.hstack([mine.forward_ns, mine.backward_ns]), places[mine.role])

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
