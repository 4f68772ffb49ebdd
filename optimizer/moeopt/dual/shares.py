"""Candidates whose layers may be cut and stand in any order: linear programs over shares of pieces on stages.

Every time row, UB2 and every memory row of the schedule count in them. Where memory and time pull at the same few
ranks, subgradients take hundreds of rounds to find weights that say so; a program has them at once. Its solution is not
trusted: the bound is computed from its dual values, of which any give one, each piece on its cheapest stage.

A program may exceed memory at a price, so that there are weights where nothing fits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moeopt.dual.grid import Array, Grid
from moeopt.dual.linear_program import dual_values
from moeopt.dual.prices import Prices, Rows, duration_ns
from moeopt.dual.tables import Index
from moeopt.dual.tops import SLACK

_OVERFLOW = 1000.0
"""Price of exceeding a memory row by the largest room of one, in means of a rank's time."""
_MOST_CELLS = 20_000
"""Entries of a program; larger ones take some ten milliseconds each, which walks use better."""
_TINY = 1e-12


@dataclass(frozen=True)
class Weights:
    """Of one candidate: of time rows (their sum is 1), of memory rows, and of stages' times above UB2's base time."""

    time: Array
    memory: Array
    excess: Array

    @classmethod
    def of(cls, rows: Rows, time: Array, memory: Array, excess: Array) -> "Weights | None":
        """The nearest weights to any values; None where all time rows weigh nothing.

        UB2 is no less than stages' times with such weights, whatever its base time: each stage counts once a round, the
        others of a chunk position share its waves, and all together weigh no more than the base time does.
        """
        time, memory = np.maximum(time, 0.0), np.maximum(memory, 0.0)
        total = float(time.sum())
        if not total > 0:
            return None
        if not rows.surrogate:
            return cls(time / total, memory / total, np.zeros(1))
        pp, vpp, *_ = rows.schedule
        weights = np.maximum(excess / total, 0.0).reshape(vpp, pp)
        each = np.minimum(weights, rows.rounds)
        further = weights - each
        further = further * np.minimum(rows.waves / np.maximum(further.sum(axis=1, keepdims=True), _TINY), 1.0)
        weights = each + further
        weights = weights * min(rows.span / max(float(weights.sum()), _TINY), 1.0)
        return cls(time / total, memory / total, weights.reshape(-1))


class Shares:
    """Candidates of one schedule. Shares are those of every kind of layers on every stage, and of all MTP modules on
    the stages that may have them; columns are theirs."""

    def __init__(self, grid: Grid, rows: Rows, prices: Prices) -> None:
        self.grid, self.rows, self.prices = grid, rows, prices
        ending = [stage for stage in range(grid.stages) if grid.may_end(stage)]
        where = [*[list(range(grid.stages))] * len(grid.kinds), *([ending] if grid.mtp_layers else [])]
        counts = [*map(grid.layers.count, grid.kinds), 1]
        self.counts = np.array(counts[: len(where)], dtype=float)
        self._first: Index = np.cumsum([0, *map(len, where[:-1])])
        """Where the shares of each piece begin."""
        self.stage: Index = np.array([stage for stages in where for stage in stages])
        self.piece = np.repeat(np.arange(len(where)), [len(stages) for stages in where])
        self.held = np.concatenate([prices.kinds, prices.mtp[:, None]], axis=1)[:, self.piece]
        """Candidates x shares x measures, ..."""
        self.fixed = np.zeros((len(prices.hop_ns), grid.stages, self.held.shape[2]))
        """... and of what each stage holds besides."""
        self.fixed[:, 0] += prices.embedding
        self.fixed[:, -1] += prices.loss
        self.least = rows.values(self.fixed, prices.hop_ns)
        """What the time rows have of that, ..."""
        self.room = prices.room - rows.bytes(self.fixed)
        """... and what it leaves of the memory rows."""

    def weights(self) -> dict[int, Weights]:
        """The programs' dual values, by candidate; none of those that have none, or are too large."""
        if (len(self.rows.time) + len(self.rows.resident)) * len(self.stage) > _MOST_CELLS:
            return {}
        program = _Program(self)
        found = ((index, program.weights(index)) for index in range(len(self.held)))
        return {index: weights for index, weights in found if weights is not None}

    def least_ns(self, weights: Mapping[int, Weights]) -> Array:
        """What no placement within memory is below by these weights, rows and UB2 together: candidates, -inf where that
        is not known. (Layers that are recomputed by block have other prices.)"""
        least = np.full(len(self.held), -np.inf)
        index = np.array([each for each in weights if not self.prices.block_layers[each]], dtype=np.int64)
        if not len(index):
            return least
        rho, mu, excess = (
            np.array([getattr(weights[each], name) for each in index.tolist()]) for name in ("time", "memory", "excess")
        )
        ahead, back = np.split(rho @ self.rows.time, 2, axis=1)
        stage = np.stack([ahead + excess, back + excess, mu @ self.rows.resident, mu @ self.rows.flight], axis=2)
        price = np.einsum("csm,csm->cs", stage[:, self.stage], self.held[index, :, :4])
        given = duration_ns(self.fixed[index])
        parts = [
            np.minimum.reduceat(price, self._first, axis=1) @ self.counts,
            (rho * self.least[index]).sum(axis=1),
            (excess * given).sum(axis=1),
            -(mu * self.room[index]).sum(axis=1),
        ]
        lost = (mu * np.abs(self.room[index])).sum(axis=1)
        least[index] = sum(parts) - SLACK * (sum(map(np.abs, parts)) + lost)
        return least


class _Program:
    """The programs of some candidates. Variables are shares, the largest row and UB2 together, overflow of memory, and
    what UB2 is made of: itself, its base time, for each chunk position the longest time above it, and for each stage
    its time above it. Rows are those of memory, of time, and of UB2; then one for each piece. Time is in means of a
    rank's time of a step, memory in the largest room of a row."""

    def __init__(self, shares: Shares) -> None:
        self.shares, self.rows, stage = shares, shares.rows, shares.stage
        self._ahead, self._back = (half[:, stage] for half in np.hsplit(self.rows.time, 2))
        self._resident, self._flight = self.rows.resident[:, stage], self.rows.flight[:, stage]
        further = self._with_ub2() if self.rows.surrogate else self._rows_alone()
        self._further = np.vstack([further, np.zeros((len(shares.counts), further.shape[1]))])
        """Coefficients of the variables after the shares."""
        self._ends = (
            np.equal.outer(np.arange(shares.grid.stages), stage),
            np.zeros((shares.grid.stages + 1, len(stage))),
        )
        self._pieces = np.equal.outer(np.arange(len(shares.counts)), shares.piece).astype(float)
        self._price = np.zeros(len(stage) + further.shape[1])
        self._price[len(stage) : len(stage) + 2] = 1.0, _OVERFLOW

    def _rows_alone(self) -> Array:
        step, overflow = np.eye(2)
        return np.vstack([np.tile(-overflow, (len(self.rows.resident), 1)), np.tile(step, (len(self.rows.time), 1))])

    def _with_ub2(self) -> Array:
        """UB2 is its span times the base time, and for each chunk position its waves times the longest time above that,
        and its rounds times all of them."""
        rows, (pp, vpp, *_) = self.rows, self.rows.schedule
        memory, time, stages = len(rows.resident), len(rows.time), pp * vpp
        step, overflow, upper, base, *rest = np.eye(4 + vpp + stages)
        longest, above = np.array(rest[:vpp]), np.array(rest[vpp:])
        return np.vstack(
            [
                np.tile(-overflow, (memory, 1)),
                np.tile(step - upper, (time, 1)),
                base + above,
                np.repeat(longest, pp, axis=0) - above,
                upper - rows.span * base - rows.waves * longest.sum(axis=0) - rows.rounds * above.sum(axis=0),
            ]
        )

    def weights(self, index: int) -> Weights | None:
        """Of one candidate; None where its program has none."""
        shares, rows = self.shares, self.rows
        held, given = shares.held[index], duration_ns(shares.fixed[index])
        unit_ns = max(float(duration_ns(shares.prices.totals[index])) * rows.schedule[2] / shares.grid.pp, 1.0)
        unit_bytes = max(float(np.abs(shares.room[index]).max()), 1.0)
        coefficients = [
            (self._resident * held[:, 2] + self._flight * held[:, 3]) / unit_bytes,
            -(self._ahead * held[:, 0] + self._back * held[:, 1]) / unit_ns,
        ]
        least = [np.full(len(rows.resident), -np.inf), shares.least[index] / unit_ns]
        if rows.surrogate:
            on_stage, others = self._ends
            coefficients += [on_stage * -duration_ns(held) / unit_ns, others]
            least += [given / unit_ns, np.zeros(len(others))]
        most = np.full(len(self._further) - len(shares.counts), np.inf)
        most[: len(rows.resident)] = shares.room[index] / unit_bytes
        found = dual_values(
            self._price,
            np.hstack([np.vstack([*coefficients, self._pieces]), self._further]),
            np.concatenate([*least, shares.counts]),
            np.concatenate([most, shares.counts]),
        )
        if found is None:
            return None
        memory, time, excess, _ = np.split(
            found, np.cumsum([len(rows.resident), len(rows.time), len(given) if rows.surrogate else 0])
        )
        return Weights.of(rows, time, -memory * unit_ns / unit_bytes, excess)
