"""One pass over the ranks of a candidate: the least cost of what they hold, by counted layers placed.

A chance (`maxima`) and a longest R1 say which ways a rank has; the price of a way is a sum over its chunks. Layers of
the prefix, and where layers end, are told apart on the way (`State`).
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from moeopt.dual.contents import Contents, Role
from moeopt.dual.grid import Array, Grid
from moeopt.dual.maxima import Tops
from moeopt.dual.tables import Index, Mask
from moeopt.dual.walks import Placements

NONE = np.inf
"""The cost of what no way leads to."""
State: TypeAlias = tuple[int, bool]
"""Layers of the prefix that are placed, and whether layers have ended."""


@dataclass(frozen=True)
class Step:
    """What a rank may add at one base time: its ways, what each costs, R1 (ns), and the lowest top of every chunk
    position that it is within (chunks x ways)."""

    roles: list[Role]
    ways: Contents
    cost: Array
    row_ns: Array
    top: Tops
    first: Index
    """Where the ways of one role and number of layers begin."""

    @classmethod
    def of(cls, roles: list[Role], ways: Contents, cost: Array, row_ns: Array, top: Tops) -> "Step":
        """With the groups."""
        new = (np.diff(ways.role, prepend=-1) != 0) | (np.diff(ways.total, prepend=-1) != 0)
        return cls(roles, ways, cost, row_ns, top, np.flatnonzero(new))

    def only(self, mask: Mask) -> "Step":
        """Some of the ways."""
        return Step.of(self.roles, self.ways.only(mask), self.cost[mask], self.row_ns[mask], self.top[:, mask])

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Role and number of layers of each group."""
        return list(zip(self.ways.role[self.first].tolist(), self.ways.total[self.first].tolist(), strict=True))

    def fits(self, tops: Tops, cap_ns: Array) -> Mask:
        """Which ways are within the tops (chances x chunks) and R1: chances x ways."""
        result = self.row_ns <= cap_ns[:, None]
        for own, highest in zip(self.top, tops.T, strict=True):
            result &= own <= highest[:, None]
        return np.asarray(result)

    def least(self, tops: Tops, cap_ns: Array, extra: Array | None = None) -> Array:
        """The least cost, and `extra` of each way, of every group: chances x groups."""
        cost = self.cost if extra is None else self.cost + extra
        within = np.where(self.fits(tops, cap_ns), cost, NONE)
        return np.asarray(np.minimum.reduceat(within, self.first, axis=1))


class RanksPass:
    """The pass for some chances. `extra`: of each rank, what its ways cost besides."""

    def __init__(
        self, steps: list[Step], layers: tuple[int, int], tops: Tops, cap_ns: Array, extra: list[Array] | None = None
    ) -> None:
        """`layers`: of the prefix, and counted ones."""
        self.steps, self.tops, self.cap_ns = steps, tops, cap_ns
        self.prefix, self.counted = layers
        self.extra = extra or [np.zeros(len(step.cost)) for step in steps]
        least = [step.least(tops, cap_ns, each) for step, each in zip(steps, self.extra, strict=True)]
        self.value = np.full(len(tops), NONE)
        """The least cost of every chance."""
        most = [_most(step, each) for step, each in zip(steps, least, strict=True)]
        self.open = np.flatnonzero(sum(most) >= self.counted)
        """Chances whose ranks hold all layers together."""
        if not len(self.open):
            return
        self._least = [each[self.open] for each in least]
        ends = np.array([each[self.open].max() for each in most]).astype(np.int64)
        self._high = np.minimum(np.concatenate([[0], np.cumsum(ends)]), self.counted)
        """Most counted layers before each rank and after the last, as the fewest."""
        self._low = np.maximum(self.counted - np.concatenate([np.cumsum(ends[::-1])[::-1], [0]]), 0)
        self._passed: list[dict[State, Array]] = [{(0, False): np.zeros((len(self.open), 1))}]
        for rank in range(len(steps)):
            self._passed.append(self._onward(rank))
        final = self._passed[-1].get((self.prefix, True))
        if final is not None:
            self.value[self.open] = final[:, -1]

    def _onward(self, rank: int) -> dict[State, Array]:
        """By state and counted layers placed after a rank: chances x layers from the fewest to the most."""
        step, before = self.steps[rank], self._passed[rank]
        low, high = int(self._low[rank]), int(self._high[rank])
        first, last = int(self._low[rank + 1]), int(self._high[rank + 1])
        after: dict[State, Array] = {}
        for group, (role, number) in enumerate(step.groups):
            come, go = states(step.roles[role])
            start, end = max(low, first - number), min(high, last - number)
            if come in before and start <= end:
                shape = len(self.open), last - first + 1
                here = after.setdefault(go, np.full(shape, NONE))[:, start + number - first : end + number - first + 1]
                reached = before[come][:, start - low : end - low + 1] + self._least[rank][:, group, None]
                np.minimum(here, reached, out=here)
        return after

    def placement(self, grid: Grid, chance: int) -> Placements:
        """The placement of one chance with the least cost, from the last rank to the first."""
        at = int(np.flatnonzero(self.open == chance)[0])
        counts = np.zeros((1, grid.stages), dtype=np.int64)
        state, placed, ending = (self.prefix, True), self.counted, grid.stages - 1
        for rank in reversed(range(grid.pp)):
            way = self._cheapest(rank, at, state, placed)
            ways, role = self.steps[rank].ways, self.steps[rank].roles[self.steps[rank].ways.role[way]]
            counts[0, rank :: grid.pp] = ways.counts[way]
            counts[0, rank] += role.taken
            if role.phase == 1:
                ending = grid.final + rank
            placed -= int(ways.total[way])
            state = states(role)[0]
        return Placements(counts, np.array([ending]))

    def _cheapest(self, rank: int, at: int, state: State, placed: int) -> int:
        """The way that leads to a state with so many layers placed at the least cost, for one chance."""
        step, chance = self.steps[rank], self.open[at : at + 1]
        value = np.where(step.fits(self.tops[chance], self.cap_ns[chance])[0], step.cost + self.extra[rank], NONE)
        reached = placed - step.ways.total
        inside = (reached >= self._low[rank]) & (reached <= self._high[rank])
        total = np.full(len(value), NONE)
        for number, role in enumerate(step.roles):
            come, go = states(role)
            mine = np.flatnonzero(inside & (step.ways.role == number)) if go == state else np.zeros(0, dtype=np.int64)
            if come in self._passed[rank]:
                total[mine] = value[mine] + self._passed[rank][come][at, reached[mine] - self._low[rank]]
        return int(total.argmin())


def states(role: Role) -> tuple[State, State]:
    """Before and after a rank in a role."""
    return (role.before, role.phase == 2), (role.before + role.taken, role.phase > 0)


def _most(step: Step, least: Array) -> Array:
    """Most counted layers that a rank holds, by chance; below all that there are where it has no way at all."""
    number = np.array([number for _, number in step.groups])
    return np.asarray(np.where(np.isfinite(least), number, -(10**6)).max(axis=1))
