"""Weights of the rows, raised by projected subgradient steps (Polyak's length towards the limit)."""

from dataclasses import InitVar, dataclass, field

import numpy as np

from moeopt.dual.first_weights import FirstWeights
from moeopt.dual.grid import Array, on_simplex
from moeopt.dual.listing import Listing
from moeopt.dual.prices import MEASURES, Prices, Rows, duration_ns, ub2_at
from moeopt.dual.ranks import most_by_memory, most_by_time
from moeopt.dual.tables import NEVER, Index, Mask, Tables
from moeopt.dual.tops import SLACK
from moeopt.dual.walks import Dual, Placements, Walks, Weights

_STEP = 1.5
_MEMORY = 4.0
"""Step of memory weights beside those of time rows (both scaled to their limits)."""
_LEAST_GAP = 0.002
"""Steps aim at least this share above the value."""
_RULE_OUT = 6
"""Every so many rounds, layers before a stage that no placement within the limit has are ruled out."""


@dataclass(frozen=True)
class Measured:
    """Rows of placements, one a candidate: what stages hold, time rows, and bytes above the limit by memory row."""

    held: Array
    time_ns: Array
    over: Array

    @classmethod
    def of(cls, rows: Rows, prices: Prices, placed: Placements) -> "Measured":
        """`prices` as for the placements."""
        held = prices.held(placed.counts, placed.ending)
        return cls(held, rows.values(held, prices.hop_ns), rows.bytes(held) - prices.room)


@dataclass
class Best:
    """The best placement met of each candidate: rows + UB2 (float ns), layers a stage, stage of the MTP modules."""

    value: Array
    counts: Index
    ending: Index

    def take(self, rows: Rows, placed: Placements, measured: Measured, owners: Index, base_ns: Array) -> None:
        """Placements, each with its base time, of these candidates: those that fit and are better are kept."""
        fits = (measured.over <= 0).all(axis=1)
        if not fits.any():
            return
        value = measured.time_ns.max(axis=1) + ub2_at(rows, base_ns, duration_ns(measured.held))
        for row in np.flatnonzero(fits):
            owner = owners[row]
            if value[row] < self.value[owner]:
                self.value[owner] = value[row]
                self.counts[owner], self.ending[owner] = placed.counts[row], placed.ending[row]

    def placement(self, index: int, target_ns: Array) -> Placements:
        """The best placement of one candidate, if it is within the target."""
        mask = (np.arange(len(self.value)) == index) & (self.value <= target_ns)
        return Placements(self.counts[mask], self.ending[mask])


@dataclass(frozen=True)
class Listed:
    """Placements within the target of a candidate with a base time: all of them if `complete`."""

    candidate: int
    base_ns: float
    placed: Placements
    complete: bool


@dataclass
class Ascent:
    """Rows (a candidate with a base time each) that are still open, with their weights and best values."""

    tables: Tables
    of: Index
    """The candidate of each row."""
    best: Best
    first: InitVar[FirstWeights]
    """Of each row."""
    open: list[Mask] = field(init=False)
    """Layers before each stage that are not ruled out: rows x band."""
    rho: Array = field(init=False)
    mu: Array = field(init=False)
    nu: Array = field(init=False)
    most: Array = field(init=False)
    """Rows x ranks: most layers of the commonest kind that a rank holds within the target."""
    value: Array = field(init=False)
    scale: Array = field(init=False)

    def __post_init__(self, first: FirstWeights) -> None:
        self.grid, self.rows = self.tables.grid, self.tables.rows
        totals = self.tables.prices.totals
        self.scale = np.maximum(duration_ns(totals) * self.rows.schedule[2] / self.grid.pp, 1.0)
        self.rho, self.mu = first.rho, first.mu
        self.nu = np.zeros((len(self.of), self.grid.pp))
        self.most = np.zeros_like(self.nu)
        self.value = np.full(len(self.of), -NEVER)
        widths = [high - low + 1 for low, high in zip(self.tables.low, self.tables.high, strict=True)]
        self.open = [np.ones((len(self.of), width), dtype=bool) for width in widths]

    def run(self, rounds: int) -> None:
        """Raise the weights so many times, dropping rows above their limit."""
        self._limit_ranks()
        for number in range(1, rounds + 1):
            if not len(self.of):
                return
            walks = self._walks()
            self.value = np.maximum(self.value, walks.values)
            open_ = self.value * (1 - SLACK) <= self.tables.prices.target_ns
            if open_.any():
                placed = walks.placements().only(open_)
                if number % _RULE_OUT == 0:
                    self._rule_out(walks)
                self._keep(open_)
                self._raise(walks.values[open_], self._measured(placed))
            else:
                self._keep(open_)

    def _limit_ranks(self) -> None:
        """How many layers every rank holds at most; rows whose ranks do not hold all of them together are dropped."""
        if not len(self.of):
            return
        tables = self.tables
        self.most = most_by_memory(tables.grid, tables.rows, tables.prices, tables.deepest)
        if self.rows.timed:
            none = Weights(np.zeros((len(self.of), self.grid.stages, MEASURES)), np.zeros(len(self.of)))
            upper = Walks(self.tables, none, self.open).values if self.rows.surrogate else np.zeros(len(self.of))
            self.most = np.minimum(self.most, most_by_time(self.tables, upper))
        short = self.most.sum(axis=1) < self.tables.prices.layers[:, 4, -1]
        self._keep(~(short | (self.most < 0).any(axis=1)))

    def _rule_out(self, walks: Walks) -> None:
        """Close what no placement within the target passes through."""
        limit = self.tables.prices.target_ns[:, None] * (1 + SLACK)
        for stage, value in enumerate(walks.reached()):
            self.open[stage] = self.open[stage] & (value <= limit)

    def listed(self, most: int) -> list[Listed]:
        """The placements left of every row that is open, candidate by candidate, the lowest values first; of one with a
        row that has too many, the rows behind that one are not looked at, as not all placements will be known."""
        if not len(self.of):
            return []
        walks = self._walks()
        onward, limit = walks.onward(), self.tables.prices.target_ns * (1 + SLACK)
        result, too_many = [], set[int]()
        for row in np.lexsort((self.value, self.of)).tolist():
            candidate, base = int(self.of[row]), float(self.tables.base_ns[row])
            if candidate in too_many:
                result.append(Listed(candidate, base, Placements.none(walks.grid.stages), False))
                continue
            listing = Listing(walks, onward, row, float(limit[row]), most)
            result.append(Listed(candidate, base, listing.placements(), listing.complete))
            if not listing.complete:
                too_many.add(candidate)
        return result

    def _walks(self) -> Walks:
        dual = Dual(self.rho, self.mu, self.nu, self.most)
        return Walks(self.tables, Weights.of(self.rows, self.tables.prices, dual), self.open)

    def _keep(self, mask: Mask) -> None:
        if mask.all():
            return
        for name in ("of", "rho", "mu", "nu", "most", "value", "scale"):
            setattr(self, name, getattr(self, name)[mask])
        self.open = [open_[mask] for open_ in self.open]
        self.tables = self.tables.only(mask)

    def _measured(self, placed: Placements) -> Measured:
        """Rows of placements; better ones that fit are kept."""
        measured = Measured.of(self.rows, self.tables.prices, placed)
        self.best.take(self.rows, placed, measured, self.of, self.tables.base_ns)
        return measured

    def _raise(self, current: Array, measured: Measured) -> None:
        """One step; rho stays on the simplex, mu and nu above zero."""
        time, memory = measured.time_ns, measured.over
        layers = measured.held[:, :, 4] @ self.rows.ranks.T - self.most
        scale, room = self.scale[:, None], np.maximum(np.abs(self.tables.prices.room), 1.0)
        target = self.tables.prices.target_ns
        by_time = time / scale
        by_time = by_time - by_time.mean(axis=1, keepdims=True)
        by_memory = memory / room
        gap = np.maximum(target - current, _LEAST_GAP * target) / self.scale
        share = self.tables.prices.layers[:, 4, -1:] / self.grid.pp
        by_layers = layers / share
        norm = (by_time**2).sum(axis=1) + _MEMORY * (by_memory**2).sum(axis=1) + (by_layers**2).sum(axis=1)
        step = (_STEP * gap / np.maximum(norm, 1e-12))[:, None]
        self.rho = on_simplex(self.rho + step * by_time)
        self.mu = np.maximum(self.mu + _MEMORY * step * by_memory * scale / room, 0.0)
        self.nu = np.maximum(self.nu + step * by_layers * scale / share, 0.0)
