"""The placements whose weighted rows and UB2 stay within a target: all where they are few, else the most promising.

Every placement within the limits is among all of them, whatever the weights, so a candidate whose list is complete and
was judged is settled.
"""

from dataclasses import dataclass

import numpy as np

from moeopt.dual.grid import Array, first_of_each
from moeopt.dual.tables import Index
from moeopt.dual.walks import Placements, Walks

_BEAM = 300
"""Beginnings that are kept where there are too many."""


@dataclass(frozen=True)
class _Parts:
    """Beginnings of placements: layers a stage, layers in all, the top of the position they are in, and their value."""

    counts: Index
    placed: Index
    top: Index
    value: Array

    def only(self, index: Index) -> "_Parts":
        return _Parts(self.counts[index], self.placed[index], self.top[index], self.value[index])


class Listing:
    """Placements of one row of walks within a target."""

    def __init__(self, walks: Walks, onward: list[Array], row: int, target: float, most: int) -> None:
        self.walks, self.tables, self.grid = walks, walks.tables, walks.grid
        self.row, self.target, self.most = row, target, most
        self._onward = [go[:, :, row] for go in onward]
        self._found: list[tuple[Index, int]] = [(np.zeros((0, self.grid.stages), dtype=np.int64), 0)]
        self.complete = True
        """Whether nothing was left out."""

    def placements(self) -> Placements:
        """All of them; where there are too many, those with the lowest values."""
        none = np.zeros(1, dtype=np.int64)
        start = np.array([self.walks.constant[self.row]])
        parts = _Parts(np.zeros((1, self.grid.stages), dtype=np.int64), none, none, start)
        for stage in range(self.grid.stages):
            if stage % self.grid.pp == 0:
                parts = self._with_tops(stage, parts)
            self._end(stage, parts)
            if stage == self.grid.stages - 1 or not len(parts.placed):
                break
            parts = self._step(stage, parts)
        counts = np.concatenate([found for found, _ in self._found])
        ending = np.concatenate([np.full(len(found), stage) for found, stage in self._found])
        return Placements(counts, ending).distinct

    def _with_tops(self, stage: int, parts: _Parts) -> _Parts:
        """Every top of a new position. The same beginning may be there with several tops of the last one: the lowest
        comes first, and is the cheapest."""
        if stage:
            parts = parts.only(first_of_each(parts.counts[:, :stage]))
        go = self._onward[stage][parts.placed - self.tables.low[stage]]
        which, top = np.nonzero(parts.value[:, None] + go <= self.target)
        return _Parts(parts.counts[which], parts.placed[which], top, parts.value[which])

    def _end(self, stage: int, parts: _Parts) -> None:
        for ending, moves in zip(self.tables.endings, self.walks.end_moves, strict=True):
            if ending.stage != stage:
                continue
            layers = len(self.grid.layers) - parts.placed
            held = np.minimum(layers, len(ending.before) - 1)
            value = parts.value + moves[held, self.row] + self.tables.penalty[-1][parts.top, self.row]
            fits = (held == layers) & (value <= self.target) & ~ending.blocked[held, parts.top, self.row]
            counts = parts.counts[fits].copy()
            counts[:, stage] = layers[fits]
            self._found.append((counts, stage))

    def _step(self, stage: int, parts: _Parts) -> _Parts:
        table, low, high = self.tables.stages[stage], self.tables.low[stage + 1], self.tables.high[stage + 1]
        steps = np.arange(len(table.before))
        after = parts.placed[:, None] + steps
        at = np.clip(after - low, 0, high - low)
        inside = (after >= low) & (after <= high)
        value = parts.value[:, None] + self.walks.moves[stage][steps, at, self.row]
        value = value + self.walks.shut[stage + 1][at, self.row]
        inside &= ~table.blocked[steps, at, parts.top[:, None], self.row]
        if (stage + 1) % self.grid.pp:
            go = self._onward[stage + 1][at, parts.top[:, None]]
        else:
            value = value + self.tables.penalty[stage // self.grid.pp][parts.top, self.row][:, None]
            go = self._onward[stage + 1].min(axis=1)[at]
        which, step = np.nonzero(inside & (value + go <= self.target))
        if len(which) > self.most:
            self.complete = False
            lowest = np.sort(np.argsort((value + go)[which, step], kind="stable")[:_BEAM])
            which, step = which[lowest], step[lowest]
        counts = parts.counts[which]
        counts[:, stage] = step
        return _Parts(counts, after[which, step], parts.top[which], value[which, step])
