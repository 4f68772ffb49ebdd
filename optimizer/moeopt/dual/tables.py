"""What does not change while weights do: where each stage may lead, what it adds to UB2, and which tops it exceeds.

A row is a candidate with a base time x of UB2. The stages of a chunk position follow each other in model order, so its
maximum is decided once for all of them: `tops` are the values that it may take, and every stage of the position stays
within its top. Arrays are layers of the stage x layers placed after it x tops x rows, or fewer axes: the least
over the layers of a stage is one of long vectors then. Layers placed before or after a stage are counted within a band.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import MEASURES, Prices, Rows, duration_ns

Index: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]
NEVER = 1e30
"""Price of what is not allowed."""


@dataclass(frozen=True)
class Stage:
    """A stage with layers after it or none left: `before` says where in the band before it one comes from."""

    before: Index
    """Layers of the stage x band after it."""
    covered: Index | None
    """Rows x layers x band after: where its layers that are recomputed by block end, from the first of all; None where
    no row has any."""
    price: Array
    """Layers x band after x rows: what it adds to UB2; NEVER where it leads nowhere."""
    blocked: Mask
    """Layers x band after x tops x rows: above the top."""

    def only(self, mask: Mask) -> "Stage":
        """Some of the rows."""
        covered = None if self.covered is None else self.covered[mask]
        return replace(self, covered=covered, price=self.price[..., mask], blocked=self.blocked[..., mask])


@dataclass(frozen=True)
class Ending:
    """A stage with all layers that are left and the MTP modules; only the loss comes after it."""

    stage: int
    before: Index
    """For every number of layers of the stage: where in the band before it one comes from."""
    covered: Index | None
    """Rows x layers: as of a stage."""
    price: Array
    """Layers x rows."""
    blocked: Mask
    """Layers x tops x rows."""

    def only(self, mask: Mask) -> "Ending":
        """Some of the rows."""
        covered = None if self.covered is None else self.covered[mask]
        return replace(self, covered=covered, price=self.price[..., mask], blocked=self.blocked[..., mask])


@dataclass(frozen=True)
class Tables:
    """All stages of one grid for some rows. `prices` has a candidate for every row."""

    grid: Grid
    rows: Rows
    prices: Prices
    base_ns: Array
    penalty: tuple[Array, ...]
    """For each chunk position tops x rows: what its maximum adds to UB2."""
    low: tuple[int, ...]
    """Fewest and most layers before each stage, and after the last."""
    high: tuple[int, ...]
    held: Array
    """Rows x stages x measures: what each holds besides layers and MTP modules."""
    stages: tuple[Stage, ...]
    """All but the last one."""
    endings: tuple[Ending, ...]

    @classmethod
    def of(cls, grid: Grid, rows: Rows, prices: Prices, base_ns: Array, tops: list[Array], deepest: int) -> "Tables":
        """`tops`: for each chunk position rows x tops, `inf` where a row has fewer."""
        low, high = grid.band(deepest)
        by_top = [np.ascontiguousarray(top.T) for top in tops]
        held = np.zeros((len(base_ns), grid.stages, MEASURES))
        held[:, 0] += prices.embedding
        held[:, -1] += prices.loss
        build = _Build(grid, rows, prices, base_ns, by_top, deepest, low, high, held)
        stages = tuple(build.stage(stage) for stage in range(grid.stages - 1))
        endings = tuple(build.ending(stage) for stage in range(grid.stages) if grid.may_end(stage))
        penalty = tuple(np.minimum(rows.waves * (top - base_ns), NEVER) for top in by_top)
        return cls(grid, rows, prices, base_ns, penalty, tuple(low), tuple(high), held, stages, endings)

    @property
    def deepest(self) -> int:
        """Most layers of a stage."""
        return len(self.stages[0].before) - 1 if self.stages else len(self.grid.layers)

    def only(self, mask: Mask) -> "Tables":
        """Some of the rows."""
        return replace(
            self,
            prices=self.prices.only(mask),
            base_ns=self.base_ns[mask],
            penalty=tuple(part[:, mask] for part in self.penalty),
            held=self.held[mask],
            stages=tuple(stage.only(mask) for stage in self.stages),
            endings=tuple(ending.only(mask) for ending in self.endings),
        )

    def again(self, stage: int, weight: Array, before: Index, covered: Index) -> Array:
        """What recomputing by block adds to the cost of a stage: the shape of `before` (of its table) x rows."""
        sums = np.einsum("rm,rml->rl", weight, self.prices.layers_again)
        return np.asarray(np.moveaxis(_at(sums, covered) - sums[:, before + self.low[stage]], 0, -1))


def _at(sums: Array, places: Index) -> Array:
    """Sums (rows x layers) at places of each row (rows x any shape)."""
    return np.take_along_axis(sums, places.reshape(len(places), -1), axis=1).reshape(places.shape)


@dataclass(frozen=True)
class _Build:
    grid: Grid
    rows: Rows
    prices: Prices
    base_ns: Array
    tops: list[Array]
    """Of each chunk position tops x rows."""
    deepest: int
    low: list[int]
    high: list[int]
    held: Array

    def _excess(self, time: Array) -> Array:
        """What a stage of some time adds to UB2 beside its position's maximum."""
        return np.asarray(self.rows.rounds * np.maximum(time - self.base_ns, 0.0))

    def _time(self, start: Index, end: Index) -> Array:
        """Time of a stage with the layers from one place to another: the shape of these x rows."""
        time = self._total[end] - self._total[start]
        covered = self._covered(start, end)
        if covered is not None:
            again = self.prices.layers_again[:, 0] + self.prices.layers_again[:, 1]
            time = time + np.moveaxis(_at(again, covered) - again[:, start], 0, -1)
        return np.asarray(time)

    @cached_property
    def _total(self) -> Array:
        """Time of the first layers: layers x rows."""
        return np.ascontiguousarray((self.prices.layers[:, 0] + self.prices.layers[:, 1]).T)

    def _covered(self, start: Index, end: Index) -> Index | None:
        if not self.prices.by_block:
            return None
        block = self.prices.block_layers.reshape(-1, *[1] * start.ndim)
        return np.asarray(start + np.clip(end - start, 0, block))

    def stage(self, stage: int) -> Stage:
        counts = np.arange(self.deepest + 1)[:, None]
        after = np.arange(self.low[stage + 1], self.high[stage + 1] + 1)[None, :]
        start = after - counts
        allowed = (start >= self.low[stage]) & (start <= self.high[stage]) & (counts >= self.grid.fewest(stage))
        start = np.where(allowed, start, self.low[stage])
        time = self._time(start, after) + duration_ns(self.held[:, stage])
        blocked = time[:, :, None] > self.tops[stage // self.grid.pp]
        price = np.where(allowed[:, :, None], self._excess(time), NEVER)
        return Stage(start - self.low[stage], self._covered(start, after), price, blocked)

    def ending(self, stage: int) -> Ending:
        total, last = len(self.grid.layers), self.grid.stages - 1
        start = total - np.arange(self.deepest + 1)
        allowed = (start >= self.low[stage]) & (start <= self.high[stage])
        start = np.where(allowed, start, self.low[stage])
        late = duration_ns(self.held[:, last]) if stage < last else np.zeros(len(self.held))
        end = np.full_like(start, total)
        time = self._time(start, end) + duration_ns(self.held[:, stage] + self.prices.mtp)
        price = np.where(allowed[:, None], self._excess(time) + self._excess(late), NEVER)
        blocked = np.maximum(time, late)[:, None] > self.tops[-1]
        return Ending(stage, start - self.low[stage], self._covered(start, end), price, blocked)
