"""Candidates settled rank by rank, in whole layers, where memory is tight and weights on its rows leave a gap.

Ranks share nothing but the number of layers, the longest stage of every chunk position (`maxima`) and the time rows.
With maxima and a base time given UB2 is a sum over ranks, so for every chance

    least UB2 over what the ranks may hold (`contents`) whose R1 leaves room for it

is a pass over the ranks by layers placed (`ranks_pass`). R1 may take what UB2 leaves of the target, and the least UB2
rises as R1 is held to less: so often in turn until nothing changes, or nothing is left. What is left is within the
target by R1 and UB2 and within every rank's memory. The other time rows join by weights: for any with sum 1 the least
weighted rows and UB2 is a bound, again a sum over ranks. Where that leaves a gap, the rank that is full is decided too.
"""

from collections.abc import Iterator

import numpy as np

from moeopt import clock
from moeopt.dual.contents import Contents, Filling, Holding, TooMany
from moeopt.dual.grid import Array, Grid, on_simplex
from moeopt.dual.maxima import Maxima, least_excess_ns, maxima
from moeopt.dual.prices import Prices, Rows, duration_ns, ub2_at
from moeopt.dual.ranks_pass import RanksPass, Step
from moeopt.dual.tables import Mask
from moeopt.dual.tops import SLACK
from moeopt.dual.walks import Placements

_STEP = 1.5
"""Length of a step beside Polyak's."""
_PARTED_FROM = 40
"""From so many rounds on, what is left is looked at part by part."""
_MOST_CELLS = 4_000_000
"""Chances times ways of one pass; a base time with more is left to the walks."""
_NEAR_CELLS = 2**17
"""Base times times ways that are looked at together."""


class ByRank:
    """All ranks of one candidate."""

    def __init__(self, grid: Grid, rows: Rows, prices: Prices, holding: Holding, deepest: int) -> None:
        """`prices` of one candidate; no stage holds more than the deepest. Raises TooMany."""
        self.grid, self.rows, self.prices = grid, rows, prices
        self.filling = Filling(grid, rows, prices, holding)
        self._ways: list[Contents] = [self.filling.contents(rank, deepest) for rank in range(grid.pp)]
        self._target = float(prices.target_ns[0]) * (1 + SLACK)

    def may_hold(self, bases_ns: Array) -> Mask:
        """The base times with which the ranks hold all layers together, each alone within the target by R1 and UB2."""
        most = np.zeros(len(bases_ns))
        for rank, ways in enumerate(self._ways):
            size = max(_NEAR_CELLS // max(len(ways.total), 1), 1)
            for first in range(0, len(bases_ns), size):
                near, *_ = self._near(rank, bases_ns[first : first + size])
                most[first : first + size] += np.where(near, ways.total, -np.inf).max(axis=1, initial=-np.inf)
        return np.asarray(most >= self.filling.counted)

    def left(self, base_ns: float, tops: list[Array], rounds: int) -> Placements | None:
        """A placement within the target as far as was looked, at a base time of UB2; None where there is none. `tops`:
        of each chunk position; `rounds`: weights of the time rows are raised so many times. Raises TooMany."""
        steps = [self._step(rank, base_ns, tops) for rank in range(self.grid.pp)]
        placed = self._left_of(steps, base_ns, tops, rounds)
        if placed is None or rounds < _PARTED_FROM or clock.is_over():
            return placed
        parts = (self._left_of(part, base_ns, tops, rounds) for part in self._parts(steps))
        return next((found for found in parts if found is not None), None)

    def _parts(self, steps: list[Step]) -> Iterator[list[Step]]:
        """Some rank is full: it holds as many layers as not all can be below. Rank by rank, where it is the last full
        one. (Weights on rows spread layers evenly; the rows of a full rank are long.)"""
        most = np.array([step.ways.total.max() for step in steps])
        levels = range(1, int(most.max()) + 1)
        full = next(level for level in levels if np.minimum(most, level).sum() >= self.filling.counted)
        for last in range(self.grid.pp):
            yield [
                step.only(
                    step.ways.total >= full if rank == last else step.ways.total < (full if rank > last else np.inf)
                )
                for rank, step in enumerate(steps)
            ]

    def _left_of(self, steps: list[Step], base_ns: float, tops: list[Array], rounds: int) -> Placements | None:
        """The same with these ways of the ranks."""
        if not all(len(step.cost) for step in steps):
            return None
        if sum(int(step.ways.total.max()) for step in steps) < self.filling.counted:
            return None
        chances = maxima(self.rows, self.grid, self.prices, base_ns, tops)
        if len(chances.value_ns) * sum(len(step.cost) for step in steps) > _MOST_CELLS:
            raise TooMany
        chances, cap_ns = self._by_own_rows(steps, chances)
        if not len(cap_ns):
            return None
        return self._by_weights(steps, chances, cap_ns, base_ns, rounds)

    def _step(self, rank: int, base_ns: float, tops: list[Array]) -> Step:
        """The ways of a rank that R1 and UB2 allow, as no stage is longer than the longest of its position."""
        ways, (near, above, row) = self._ways[rank], self._near(rank, np.array([base_ns]))
        near, above, ways = near[0], above[0], ways.only(near[0])
        top = np.stack([np.searchsorted(each, time) for each, time in zip(tops, ways.time_ns.T, strict=True)])
        within: Mask = np.all(top < [[len(each)] for each in tops], axis=0)
        near[near] = within
        cost, top = self.rows.rounds * above[near], top[:, within].astype(np.int16)
        return Step.of(self.filling.roles(rank), ways.only(within), cost, row[near], top)

    def _near(self, rank: int, bases_ns: Array) -> tuple[Mask, Array, Array]:
        """The ways of a rank that R1 and UB2 allow, and what they take above the base time (base times x ways); and R1
        (ways)."""
        ways, rows, base = self._ways[rank], self.rows, bases_ns[:, None]
        above = np.zeros((len(bases_ns), len(ways.total)))
        for time_ns in ways.time_ns.T if rows.surrogate else ():
            above += np.maximum(time_ns - base, 0)
        row = rows.schedule[2] * ways.time_ns.sum(axis=1) + self.filling.fill_ns[rank] if rows.timed else 0 * above[0]
        even = least_excess_ns(rows, self.grid, self.prices, base)
        upper = rows.span * base + rows.waves * above + np.maximum(rows.rounds * above, even)
        return np.asarray(row + upper <= self._target), above, row

    def _pass(self, steps: list[Step], chances: Maxima, cap_ns: Array, extra: list[Array] | None = None) -> RanksPass:
        return RanksPass(steps, (self.filling.prefix, self.filling.counted), chances.tops, cap_ns, extra)

    def _by_own_rows(self, steps: list[Step], chances: Maxima) -> tuple[Maxima, Array]:
        """The chances that UB2 and R1 leave, and how long R1 may be in each."""
        value, cap = np.zeros(len(chances.value_ns)), np.full(len(chances.value_ns), np.inf)
        while True:
            room = self._target - chances.value_ns - value
            todo = np.flatnonzero(room < cap)
            if not len(todo):
                return chances, cap
            cap[todo] = room[todo]
            value[todo] = self._pass(steps, chances.only(todo), cap[todo]).value
            open_ = chances.value_ns + value <= self._target
            chances, value, cap = chances.only(open_), value[open_], cap[open_]

    def _by_weights(
        self, steps: list[Step], chances: Maxima, cap_ns: Array, base_ns: float, rounds: int
    ) -> Placements | None:
        """The best placement met while weights on the time rows rule chances out; None once all are."""
        rho: Array | None = None
        best: tuple[float, Placements | None] = np.inf, None
        for _ in range(rounds + 1):
            passed = self._pass(steps, chances, cap_ns, None if rho is None else self._weighed(steps, rho))
            value = chances.value_ns + passed.value
            if rho is not None:
                value = value + float(rho @ self.rows.hops) * self.prices.hop_ns[0]
            open_ = value <= self._target
            if not open_.any():
                return None
            placed = passed.placement(self.grid, int(value.argmin()))
            time, upper = self._measured(placed, base_ns)
            best = min(best, (float(time.max()) + upper, placed), key=lambda item: item[0])
            if best[0] <= self._target or not self.rows.timed:
                break
            rho = self._raised(rho, time, float(value.min()))
            chances, cap_ns = chances.only(open_), cap_ns[open_]
        return best[1]

    def _weighed(self, steps: list[Step], rho: Array) -> list[Array]:
        """What the ways of every rank add to the weighted time rows."""
        weights = (rho @ self.rows.time).reshape(2, self.grid.vpp, self.grid.pp)
        every = enumerate(steps)
        return [
            step.ways.forward_ns @ weights[0, :, rank] + step.ways.backward_ns @ weights[1, :, rank]
            for rank, step in every
        ]

    def _measured(self, placed: Placements, base_ns: float) -> tuple[Array, float]:
        """Time rows and UB2 of a placement."""
        held = self.prices.held(placed.counts, placed.ending)
        upper = ub2_at(self.rows, np.array([base_ns]), duration_ns(held))
        return self.rows.values(held, self.prices.hop_ns)[0], float(upper[0])

    def _raised(self, rho: Array | None, time: Array, value: float) -> Array:
        """Weights after a step towards the rows that are long; all on the longest at first."""
        if rho is None:
            return np.asarray(np.arange(len(time)) == time.argmax(), dtype=float)
        active = (rho > 0) | (time >= float(rho @ time))
        rise = np.where(active, time - time[active].mean(), 0.0)
        step = _STEP * max(self._target - value, 1e-3 * self._target) / max(float(rise @ rise), 1e-9)
        return np.asarray(on_simplex(np.where(active, rho + step * rise, -1.0)[None, :])[0])
