"""The cheapest placement for given weights: a shortest walk over (stage, layers placed), for many rows at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.dual.grid import Array, first_of_each
from moeopt.dual.prices import Prices, Rows
from moeopt.dual.tables import NEVER, Index, Mask, Tables

_ROUNDING = 1e-11
"""Share of weighted limits that is given away: above the 10^-12 that sums of floats lose."""


@dataclass(frozen=True)
class Weights:
    """Rows x stages x measures: what a unit of each measure costs on a stage; and what does not depend on stages."""

    stage: Array
    constant: Array

    @classmethod
    def of(cls, rows: Rows, prices: Prices, dual: "Dual") -> "Weights":
        """From the weights of the schedule's rows. Bytes and limits may cancel where their weights are large: what
        floats lose of either is given away."""
        time = dual.rho @ rows.time
        stages = time.shape[1] // 2
        measures = time[:, :stages], time[:, stages:], dual.mu @ rows.resident, dual.mu @ rows.flight
        limits = dual.mu * prices.room, dual.nu * dual.most
        fixed = sum(part.sum(axis=1) + _ROUNDING * np.abs(part).sum(axis=1) for part in limits)
        stage = np.stack([*measures, dual.nu @ rows.ranks], axis=2)
        return cls(stage, (dual.rho @ rows.hops) * prices.hop_ns - fixed)


@dataclass(frozen=True)
class Dual:
    """Weights (rows x rows of the schedule) of time rows, with sum 1; of memory rows; and of every rank's layers of the
    commonest kind, which are `most` at most."""

    rho: Array
    mu: Array
    nu: Array
    most: Array


@dataclass(frozen=True)
class Placements:
    """Rows x stages: layers of each stage; and the stage of the MTP modules (the last one where there are none)."""

    counts: Index
    ending: Index

    @classmethod
    def none(cls, stages: int) -> "Placements":
        """No placement on so many stages."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty.reshape(0, stages), empty)

    @classmethod
    def unique(cls, parts: Sequence["Placements"]) -> "Placements":
        """The placements of all parts, each once."""
        return cls(
            np.concatenate([part.counts for part in parts]), np.concatenate([part.ending for part in parts])
        ).distinct

    @property
    def distinct(self) -> "Placements":
        """Each of them once, in order."""
        return self.only(first_of_each(np.column_stack([self.counts, self.ending])))

    def only(self, mask: NDArray[Any]) -> "Placements":
        """Some of the rows."""
        return Placements(self.counts[mask], self.ending[mask])


class Walks:
    """One pass over all stages, kept to read placements from.

    `open_` tells which numbers of layers before each stage (rows x band) are not ruled out yet; `values` is the least
    of the weighted rows and UB2 over the placements that are left.
    """

    def __init__(self, tables: Tables, weights: Weights, open_: list[Mask]) -> None:
        self.tables, self.weights = tables, weights
        self.grid, self._every = tables.grid, np.arange(len(tables.base_ns))
        self.shut = [np.where(mask.T, 0.0, NEVER) for mask in open_]
        sums = np.einsum("rsm,rml->rsl", weights.stage, tables.prices.layers)
        self._sums = np.ascontiguousarray(sums.transpose(1, 2, 0))
        """What the first layers cost on each stage: stages x layers x rows."""
        self._held = np.ascontiguousarray((weights.stage * tables.held).sum(axis=2).T)
        """What other pieces cost but for the MTP modules: stages x rows."""
        self._before: list[Array] = []
        """What it costs to have so many layers before a stage: band x tops x rows."""
        self._after: list[Array] = []
        """The same after each chunk position, with what its maximum costs."""
        self.moves: list[Array] = []
        """Price of so many layers on a stage: layers x band after it x rows."""
        self._place()
        self.end_moves: list[Array] = []
        """The same for stages where layers may end: layers x rows."""
        self._ends = [self._end(number) for number in range(len(tables.endings))]
        reached = np.concatenate([value.T.reshape(len(self._every), -1) for value in self._ends], axis=1)
        self._best = reached.argmin(axis=1)
        self.constant = weights.constant + tables.rows.span * tables.base_ns
        self.values = reached[self._every, self._best] + self.constant

    def _place(self) -> None:
        value = np.zeros((1, len(self._every)))
        for chunk, penalty in enumerate(self.tables.penalty):
            within = np.repeat(value[:, None], len(penalty), axis=1)
            for stage in range(chunk * self.grid.pp, (chunk + 1) * self.grid.pp):
                self._before.append(within)
                if stage < self.grid.stages - 1:
                    within = self._step(stage, within)
            self._after.append(within + penalty)
            value = self._after[-1].min(axis=1)

    def _step(self, stage: int, within: Array) -> Array:
        """From the layers before a stage to those before the next."""
        table, low, high = self.tables.stages[stage], self.tables.low, self.tables.high
        before, after = self._sums[stage, low[stage] :], self._sums[stage, low[stage + 1] : high[stage + 1] + 1]
        move = after - before[table.before]
        move += table.price
        move += self._held[stage]
        if table.covered is not None:
            move += self.tables.again(stage, self.weights.stage[:, stage], table.before, table.covered)
        self.moves.append(move)
        value = within[table.before]
        value += move[:, :, None]
        np.putmask(value, table.blocked, NEVER)
        return np.asarray(value.min(axis=0) + self.shut[stage + 1][:, None])

    def _shifts(self, stage: int) -> Iterator[tuple[int, slice, slice]]:
        """For each number of layers on a stage the parts of the bands before and after it that it leads between."""
        low, high = self.tables.low[stage : stage + 2], self.tables.high[stage : stage + 2]
        for layers in range(len(self.tables.stages[stage].before)):
            first, last = max(low[0], low[1] - layers), min(high[0], high[1] - layers)
            if first <= last:
                before = slice(first - low[0], last - low[0] + 1)
                yield layers, before, slice(first + layers - low[1], last + layers - low[1] + 1)

    def _end(self, number: int) -> Array:
        """Values of the placements whose layers end on a stage: layers of it x tops x rows."""
        ending = self.tables.endings[number]
        weight, sums = self.weights.stage[:, ending.stage], self._sums[ending.stage]
        cost = (weight * (self.tables.held[:, ending.stage] + self.tables.prices.mtp)).sum(axis=1)
        if ending.stage < self.grid.stages - 1:
            cost = cost + self._held[-1]
        move = sums[-1] - sums[ending.before + self.tables.low[ending.stage]] + ending.price + cost
        if ending.covered is not None:
            move = move + self.tables.again(ending.stage, weight, ending.before, ending.covered)
        self.end_moves.append(move)
        value = self._before[ending.stage][ending.before] + move[:, None]
        np.putmask(value, ending.blocked, NEVER)
        return np.asarray(value + self.tables.penalty[-1])

    # Reading it -----------------------------------------------------------------------------------------------------

    def placements(self) -> Placements:
        """The cheapest placement of every row, from its end to its start."""
        grid, tables, every = self.grid, self.tables, self._every
        layers, tops, _ = self._ends[0].shape
        number, rest = np.divmod(self._best, tops * layers)
        top, final = np.divmod(rest, layers)
        ending = np.array([item.stage for item in tables.endings])[number]
        counts = np.zeros((len(every), grid.stages), dtype=np.int64)
        counts[every, ending] = final
        placed = len(grid.layers) - final
        for stage in range(grid.stages - 2, -1, -1):
            open_ = stage < ending
            at = np.where(open_, placed - tables.low[stage + 1], 0)
            at = np.minimum(np.maximum(at, 0), tables.high[stage + 1] - tables.low[stage + 1])
            if stage % grid.pp == grid.pp - 1:
                top = self._after[stage // grid.pp][at, :, every].argmin(axis=1)
            held = self._layers_of(stage, at, top)
            counts[:, stage] = np.where(open_, held, counts[:, stage])
            placed = np.where(open_, placed - held, placed)
        return Placements(counts, ending)

    def _layers_of(self, stage: int, at: Index, top: Index) -> Index:
        """How many layers a stage has on the cheapest way to a place in the band after it."""
        table, every = self.tables.stages[stage], self._every
        value = self._before[stage][table.before[:, at], top, every] + self.moves[stage][:, at, every]
        np.putmask(value, table.blocked[:, at, top, every], NEVER)
        return np.asarray(value.argmin(axis=0))

    def onward(self) -> list[Array]:
        """What it costs to go on from so many layers before each stage to the end: band x tops x rows."""
        beyond = np.full((1, len(self._every)), NEVER)
        result: list[Array] = []
        for chunk in reversed(range(self.grid.vpp)):
            go = self.tables.penalty[chunk] + beyond[:, None]
            for stage in range((chunk + 1) * self.grid.pp - 1, chunk * self.grid.pp - 1, -1):
                go = self._back(stage, go)
                result.append(go)
            beyond = go.min(axis=1)
        return result[::-1]

    def reached(self) -> list[Array]:
        """The value of the cheapest placement with so many layers before each stage, until its layers end: rows x
        band, for every stage."""
        both = zip(self._before, self.onward(), strict=True)
        return [(before + go).min(axis=1).T + self.constant[:, None] for before, go in both]

    def _back(self, stage: int, go: Array) -> Array:
        """Costs from the layers before a stage to the end, by going on or by ending there."""
        tables = self.tables
        width = tables.high[stage] - tables.low[stage] + 1
        here = np.full((width, *go.shape[1:]), NEVER)
        if stage < self.grid.stages - 1:
            table = tables.stages[stage]
            for layers, source, target in self._shifts(stage):
                value = go[target] + self.moves[stage][layers, target, None]
                blocked = table.blocked[layers, target]
                here[source] = np.minimum(here[source], np.where(blocked, NEVER, value))
        for ending, move in zip(tables.endings, self.end_moves, strict=True):
            if ending.stage == stage:
                rest = np.where(ending.blocked, NEVER, move[:, None] + tables.penalty[-1])
                for layers, at in enumerate(ending.before.tolist()):
                    here[at] = np.minimum(here[at], rest[layers])
        return here
