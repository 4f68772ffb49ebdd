"""What does not change while weights do: where each stage may lead, what it adds to UB2, and which tops it exceeds.

A row is a candidate with a base time x of UB2. The stages of a chunk position follow each other in model order, so its
maximum is decided once for all of them: `tops` are the values that it may take, and every stage of the position stays
within its top. Arrays are rows x tops x layers of the stage x layers placed after it, or fewer axes; layers placed
before or after a stage are counted within a band.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows, duration_ns

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
    """Rows x layers x band after: what it adds to UB2; NEVER where it leads nowhere."""
    blocked: Mask
    """Rows x tops x layers x band after: above the top."""
    held: Array
    """Rows x measures: what the stage holds besides layers."""

    def only(self, mask: Mask) -> "Stage":
        """Some of the rows."""
        covered = None if self.covered is None else self.covered[mask]
        return replace(self, covered=covered, price=self.price[mask], blocked=self.blocked[mask], held=self.held[mask])


@dataclass(frozen=True)
class Ending:
    """A stage with all layers that are left and the MTP modules; only the loss comes after it."""

    stage: int
    before: Index
    """For every number of layers of the stage: where in the band before it one comes from."""
    covered: Index | None
    """Rows x layers: as of a stage."""
    price: Array
    """Rows x layers."""
    blocked: Mask
    """Rows x tops x layers."""
    held: Array
    late: Array
    """Rows x measures: what the last stage holds, where that is another one."""

    def only(self, mask: Mask) -> "Ending":
        """Some of the rows."""
        parts = {name: getattr(self, name)[mask] for name in ("price", "blocked", "held", "late")}
        return replace(self, covered=None if self.covered is None else self.covered[mask], **parts)


@dataclass(frozen=True)
class Tables:
    """All stages of one grid for some rows. `prices` has a candidate for every row."""

    grid: Grid
    rows: Rows
    prices: Prices
    base_ns: Array
    penalty: tuple[Array, ...]
    """For each chunk position rows x tops: what its maximum adds to UB2."""
    low: tuple[int, ...]
    """Fewest and most layers before each stage, and after the last."""
    high: tuple[int, ...]
    stages: tuple[Stage, ...]
    """All but the last one."""
    endings: tuple[Ending, ...]

    @classmethod
    def of(cls, grid: Grid, rows: Rows, prices: Prices, base_ns: Array, tops: list[Array], deepest: int) -> "Tables":
        """`tops`: for each chunk position rows x tops, `inf` where a row has fewer."""
        low, high = grid.band(deepest)
        build = _Build(grid, rows, prices, base_ns, tops, deepest, low, high)
        stages = tuple(build.stage(stage) for stage in range(grid.stages - 1))
        endings = tuple(build.ending(stage) for stage in range(grid.stages) if grid.may_end(stage))
        penalty = tuple(np.minimum(rows.waves * (top - base_ns[:, None]), NEVER) for top in tops)
        return cls(grid, rows, prices, base_ns, penalty, tuple(low), tuple(high), stages, endings)

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
            penalty=tuple(part[mask] for part in self.penalty),
            stages=tuple(stage.only(mask) for stage in self.stages),
            endings=tuple(ending.only(mask) for ending in self.endings),
        )

    def sums(self, stage: int, weight: Array) -> Array:
        """Cost of the first layers on a stage, by layers in the band before it or after it: rows x layers."""
        first, last = self.low[stage], self.high[stage + 1] + 1
        return np.asarray(np.einsum("rm,rml->rl", weight, self.prices.layers[:, :, first:last]))

    def again(self, stage: int, weight: Array, before: Index, covered: Index) -> Array:
        """What recomputing by block adds to the cost of a stage: rows x the shape of `before` (of its table)."""
        sums = np.einsum("rm,rml->rl", weight, self.prices.layers_again)
        return np.asarray(_at(sums, covered) - sums[:, before + self.low[stage]])


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
    deepest: int
    low: list[int]
    high: list[int]

    def _special(self, stage: int, ends: bool) -> Array:
        pieces = [self.prices.embedding] if stage == 0 else []
        if ends and self.grid.mtp_layers:
            pieces.append(self.prices.mtp)
        if stage == self.grid.stages - 1:
            pieces.append(self.prices.loss)
        return np.asarray(sum(pieces, start=np.zeros_like(self.prices.loss)))

    def _excess(self, time: Array) -> Array:
        """What a stage of some time adds to UB2 beside its position's maximum."""
        base = self.base_ns.reshape(-1, *[1] * (time.ndim - 1))
        return np.asarray(self.rows.rounds * np.maximum(time - base, 0.0))

    def _time(self, start: Index, end: Index) -> Array:
        """Time of a stage with the layers from one place to another."""
        total = self.prices.layers[:, 0] + self.prices.layers[:, 1]
        time = total[:, end] - total[:, start]
        covered = self._covered(start, end)
        if covered is not None:
            again = self.prices.layers_again[:, 0] + self.prices.layers_again[:, 1]
            time = time + _at(again, covered) - again[:, start]
        return np.asarray(time)

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
        end = np.broadcast_to(after, start.shape)
        held = self._special(stage, False)
        time = self._time(start, end) + duration_ns(held)[:, None, None]
        blocked = time[:, None] > self.tops[stage // self.grid.pp][:, :, None, None]
        price = np.where(allowed, self._excess(time), NEVER)
        return Stage(start - self.low[stage], self._covered(start, end), price, blocked, held)

    def ending(self, stage: int) -> Ending:
        total, last = len(self.grid.layers), self.grid.stages - 1
        start = total - np.arange(self.deepest + 1)
        allowed = (start >= self.low[stage]) & (start <= self.high[stage])
        start = np.where(allowed, start, self.low[stage])
        held = self._special(stage, True)
        late = self._special(last, False) if stage < last else np.zeros_like(held)
        end = np.full_like(start, total)
        time = self._time(start, end) + duration_ns(held)[:, None]
        price = np.where(allowed, self._excess(time) + self._excess(duration_ns(late))[:, None], NEVER)
        highest = np.maximum(time, duration_ns(late)[:, None])
        blocked = highest[:, None, :] > self.tops[-1][:, :, None]
        return Ending(stage, start - self.low[stage], self._covered(start, end), price, blocked, held, late)
