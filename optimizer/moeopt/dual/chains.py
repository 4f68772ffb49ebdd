"""All ways through the ranks of a candidate, where they are few: each rank's way may be next to the one before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from moeopt.dual.tables import Index, Mask
from moeopt.schedule.neighbours import Within
from moeopt.schedule.tree_join import spread

_MOST_LINKS = 2**15
"""Pairs of ways next to each other; with more there are too many ways through all ranks too."""


class _Step(NamedTuple):
    """From the states of a rank to those of the next: state n goes to `next[first[n] : first[n + 1]]`."""

    first: Index
    next: Index


@dataclass(frozen=True)
class Chains:
    """What ranks may hold: `totals` of every way of a rank, `links` from each rank to the next, which ways the first
    rank may begin with and the last one end with, and how many layers there are in all."""

    totals: Sequence[Index]
    links: Sequence[Within]
    begin: Mask
    end: Mask
    counted: int

    def listed(self, most: int) -> Index | None:
        """Every chain: chains x ranks, a way of each; None where there are more than so many."""
        if sum(len(link.ns) for link in self.links) > _MOST_LINKS:
            return None
        states, steps = self._states()
        chains = np.ones(len(states[-1]))
        for step in reversed(steps):
            chains = np.add.reduceat(chains[step.next], step.first[:-1]) if len(step.next) else chains[:0]
        if chains.sum() > most:
            return None
        at = np.arange(len(states[0]))
        found = states[0][at][:, None]
        for way, step in zip(states[1:], steps, strict=True):
            which, link = spread(step.first[at], step.first[at + 1])
            at = step.next[link]
            found = np.column_stack([found[which], way[at]])
        return found

    def _states(self) -> tuple[list[Index], list["_Step"]]:
        """The ways of every rank that some chain holds, once for every number of layers placed before them; and the
        steps between these."""
        may, size = self._may(), self.counted + 1
        way = np.flatnonzero(self.begin & may[0][:, 0])
        placed = self.totals[0][way]
        states, steps = [way], list[_Step]()
        for rank, (lower, upper) in enumerate(self._in_order, start=1):
            which, link = spread(*(np.searchsorted(lower, way, side=side) for side in ("left", "right")))
            ends = may[rank][upper[link], placed[which]]
            which, next_ = which[ends], upper[link[ends]]
            met, to = np.unique(next_ * size + placed[which] + self.totals[rank][next_], return_inverse=True)
            steps.append(_Step(np.searchsorted(which, np.arange(len(way) + 1)), to))
            way, placed = np.divmod(met, size)
            states.append(way)
        return states, steps

    @cached_property
    def _in_order(self) -> list[tuple[Index, Index]]:
        """The links, by their lower way: the lower ways and the upper ones."""
        orders = [np.argsort(link.lower, kind="stable") for link in self.links]
        return [(link.lower[order], link.upper[order]) for link, order in zip(self.links, orders, strict=True)]

    def _may(self) -> list[Mask]:
        """Of every rank's ways, with how many layers placed before the rank the others may hold the rest."""
        before = np.arange(self.counted + 1)
        may = [self.end[:, None] & (before + self.totals[-1][:, None] == self.counted)]
        for totals, (lower, upper) in zip(reversed(self.totals[:-1]), reversed(self._in_order), strict=True):
            after = before + totals[lower][:, None]
            goes = np.where(after <= self.counted, may[-1][upper[:, None], np.minimum(after, self.counted)], False)
            mine = np.zeros((len(totals), self.counted + 1), dtype=bool)
            if len(lower):
                begins = np.flatnonzero(np.diff(lower, prepend=-1))
                mine[lower[begins]] = np.logical_or.reduceat(goes, begins)
            may.append(mine)
        return may[::-1]
