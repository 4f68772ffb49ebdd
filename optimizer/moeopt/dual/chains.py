"""All ways through the ranks of a candidate, where they are few: each rank's way may be next to the one before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moeopt.dual.tables import Index, Mask
from moeopt.schedule.neighbours import Within
from moeopt.schedule.tree_join import spread

_MOST_LINKS = 2**15
"""Pairs of ways next to each other; with more there are too many ways through all ranks too."""


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
        may = self._may()
        chains = np.flatnonzero(self.begin & may[0][:, 0])[:, None]
        placed = self.totals[0][chains[:, 0]]
        for rank, (lower, upper) in enumerate(self._in_order, start=1):
            which, link = spread(*(np.searchsorted(lower, chains[:, -1], side=side) for side in ("left", "right")))
            next_ = upper[link]
            ends = may[rank][next_, placed[which]]
            which, next_ = which[ends], next_[ends]
            if len(which) > most:
                return None
            chains = np.column_stack([chains[which], next_])
            placed = placed[which] + self.totals[rank][next_]
        return chains if len(chains) <= most else None

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
