"""Prices of candidates that share an order of operations, as arrays that a walk through the stages reads.

Nanoseconds and bytes as float64: both stay below 2^53 here, sums are rounded by less than one part in 10^12, and every
bound read off them gives 10^9 of itself away. A leading axis counts candidates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.memory.persistent import layer_features
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number, minimum
from moeopt.dual.grid import Array, Grid
from moeopt.problem.layer_kind import LayerKind
from moeopt.schedule.bounds import row_matrix
from moeopt.schedule.combined import Counts
from moeopt.schedule.even import even_hops
from moeopt.schedule.in_flight import in_flight_vectors
from moeopt.schedule.placement import Schedule
from moeopt.screening.costs import Costs

_UNIT_NS = 1e6
"""Where only memory decides: what weighted bytes above the limit must exceed (any number: weights have no scale)."""
MEASURES = 5
"""Forward ns and backward ns of one micro-batch, bytes that stay, bytes that one micro-batch in flight keeps, and
layers of the commonest kind."""


def duration_ns(measures: Array) -> Array:
    """Forward and backward time, from measures along the last axis."""
    return np.asarray(measures[..., 0] + measures[..., 1])


@dataclass
class Cuts:
    """Critical paths of replays of one schedule, each a row that no replay goes below, with weights to begin with."""

    rows: list[Counts]
    weights: list[float]

    def add(self, row: Counts) -> None:
        """A further one, which weighs nothing yet."""
        if row not in self.rows:
            self.rows.append(row)
            self.weights.append(0.0)

    @property
    def matrix(self) -> Array:
        """Rows x (forward and backward of every stage, hops)."""
        return np.array([[*forward, *backward, hops] for forward, backward, hops in self.rows], dtype=float)

    @property
    def start(self) -> Array | None:
        """The weights with sum 1; None where all are zero."""
        weights = np.maximum(np.array(self.weights), 0.0)
        return weights / weights.sum() if weights.sum() > 0 else None


@dataclass(frozen=True)
class Rows:
    """What an order of operations makes of stages: matrices over forward and backward times and bytes of every stage.

    `replayed`: the rows bound the replayed pipeline; else, with UB2 where it is interleaved, they are the ledger's.
    """

    schedule: Schedule
    replayed: bool
    time: Array
    """Time rows x 2 stages: forward, then backward."""
    hops: Array
    resident: Array
    """Memory rows x stages: 1 on the stages of the row's rank."""
    flight: Array
    """Memory rows x stages: micro-batches in flight."""
    ranks: Array
    """Ranks x stages: 1 on the rank's stages."""
    start: Array | None = None
    """Weights of the time rows to begin with."""
    timed: bool = True
    """False: any time is within the limits, and only memory decides."""

    @classmethod
    def untimed(cls, schedule: Schedule) -> "Rows":
        """Memory rows alone."""
        none = (0,) * (schedule[0] * schedule[1])
        return replace(cls.of(schedule, replayed=True, cuts=Cuts([(none, none, 0)], [1.0])), timed=False)

    @classmethod
    def of(cls, schedule: Schedule, replayed: bool = False, cuts: "Cuts | None" = None) -> "Rows":
        """The ledger's time rows, or `cuts` in their place; one memory row for each rank and vector of micro-batches
        in flight."""
        pp, vpp, microbatches, group, ep_overlap = schedule
        rows = row_matrix(*schedule)[0].astype(float) if cuts is None else cuts.matrix
        resident, flight = [], []
        for rank in range(pp):
            own = np.zeros(pp * vpp)
            own[rank::pp] = 1
            for vector in in_flight_vectors(pp, vpp, microbatches, group, rank, ep_overlap):
                row = np.zeros(pp * vpp)
                row[rank::pp] = vector
                resident.append(own)
                flight.append(row)
        ranks = np.tile(np.eye(pp), vpp)
        return cls(
            schedule,
            replayed,
            rows[:, :-1],
            rows[:, -1],
            np.array(resident),
            np.array(flight),
            ranks,
            None if cuts is None else cuts.start,
        )

    @property
    def surrogate(self) -> bool:
        """Whether the time is the middle of the largest row and UB2."""
        return self.schedule[1] > 1 and not self.replayed

    @property
    def share(self) -> int:
        """Rows and UB2 together are so many times the pipeline's time."""
        return 2 if self.surrogate else 1

    @property
    def rounds(self) -> int:
        """K of UB2: ceil(M / G); 0 where there is no UB2."""
        return -(-self.schedule[2] // self.schedule[3]) if self.surrogate else 0

    @property
    def waves(self) -> int:
        """M - K of UB2."""
        return self.schedule[2] - self.rounds if self.surrogate else 0

    @property
    def span(self) -> int:
        """M v + p - 1 of UB2."""
        pp, vpp, microbatches, *_ = self.schedule
        return microbatches * vpp + pp - 1 if self.surrogate else 0

    @property
    def even_hops(self) -> int:
        """Hops of UB2."""
        return int(even_hops(*self.schedule)) if self.surrogate else 0

    def values(self, held: Array, hop_ns: Array) -> Array:
        """Every time row of placements (placements x stages x measures), in ns."""
        times = np.concatenate([held[:, :, 0], held[:, :, 1]], axis=1)
        return np.asarray(times @ self.time.T + hop_ns[:, None] * self.hops)

    def bytes(self, held: Array) -> Array:
        """Every memory row of placements, in bytes: what depends on them."""
        return np.asarray(held[:, :, 2] @ self.resident.T + held[:, :, 3] @ self.flight.T)


@dataclass(frozen=True)
class Prices:
    """Candidates of one schedule (the leading axis)."""

    kinds: Array
    """Candidates x kinds x measures: layers that are not recomputed by block."""
    again: Array
    """Candidates x kinds x measures: what recomputing a layer by block adds."""
    layers: Array
    """Candidates x measures x (layers + 1): sums over the first layers, ..."""
    layers_again: Array
    """... and of what recomputing these adds."""
    block_layers: NDArray[np.int64]
    """The first layers of every stage that a candidate recomputes by block."""
    embedding: Array
    """Candidates x measures, as `mtp` (all modules together) and `loss`."""
    mtp: Array
    loss: Array
    hop_ns: Array
    end_ns: Array
    """The step's end at the mean rank."""
    room: Array
    """Candidates x memory rows: bytes left for what depends on the placement."""
    step_ns: Array
    """What a step may take."""
    target_ns: Array
    """What rows and UB2 without its hops may reach together (1F1B: rows alone)."""
    longest_ns: Array
    """No stage takes longer."""

    @classmethod
    def of(cls, grid: Grid, rows: Rows, costs: Costs, end_ns: Array, within: tuple[Array, Array, int]) -> "Prices":
        """From the screening's costs; `within`: nanoseconds of a step, of a stage, and bytes of a GPU."""
        time_ns, longest_ns, memory_bytes = within
        size = len(time_ns)

        commonest = max(grid.kinds, key=grid.layers.count)

        def measures(piece: Piece) -> Array:
            found = *_measures(costs, piece), int(piece == commonest)
            return np.stack([np.broadcast_to(np.asarray(value, dtype=float), (size,)) for value in found], axis=1)

        by_kind = np.stack([measures(kind) for kind in grid.kinds], axis=1)
        again = np.zeros_like(by_kind)
        for index, kind in enumerate(grid.kinds):
            again[:, index, 1], again[:, index, 3] = costs.added_ns[kind], -costs.freed_bytes[kind]
        mtp = grid.mtp_layers * measures("mtp") if grid.mtp_layers else np.zeros((size, MEASURES))
        hop_ns = np.asarray(costs.hop_ns, dtype=float)
        pipeline = time_ns - end_ns if rows.timed else np.full(size, _UNIT_NS)
        return cls(
            by_kind,
            again,
            sums_over_layers(grid, by_kind),
            sums_over_layers(grid, again),
            np.broadcast_to(np.asarray(costs.block_layers), (size,)),
            measures("embedding"),
            mtp,
            measures("loss"),
            hop_ns,
            end_ns,
            memory_bytes - fixed_bytes(grid, rows, costs),
            time_ns,
            rows.share * pipeline - rows.even_hops * hop_ns,
            longest_ns,
        )

    @property
    def totals(self) -> Array:
        """Candidates x measures of everything together."""
        return np.asarray(self.layers[:, :, -1] + self.embedding + self.mtp + self.loss)

    def held(self, counts: NDArray[np.int64], ending: NDArray[np.int64]) -> Array:
        """Measures of every stage of one placement a candidate: candidates x stages x measures. `counts` are layers a
        stage, `ending` the stage of the MTP modules."""
        ends = np.cumsum(counts, axis=1)
        every, starts = np.arange(len(counts)), ends - counts
        held = self.layers[every[:, None], :, ends] - self.layers[every[:, None], :, starts]
        if self.by_block:
            covered = starts + np.minimum(counts, self.block_layers[:, None])
            held += self.layers_again[every[:, None], :, covered] - self.layers_again[every[:, None], :, starts]
        held[:, 0] += self.embedding
        held[:, -1] += self.loss
        held[every, ending] += self.mtp
        return np.asarray(held)

    @cached_property
    def by_block(self) -> bool:
        """Whether any candidate recomputes layers by block."""
        return bool(self.block_layers.any())

    def windows(self, count: int) -> Array:
        """Measures of every stage of so many layers, without other pieces: candidates x measures x first layers."""
        held = self.layers[:, :, count:] - self.layers[:, :, :-count]
        if self.by_block:
            size = held.shape[2]
            covered = np.minimum(self.block_layers, count)[:, None] + np.arange(size)
            held = held + np.take_along_axis(self.layers_again, covered[:, None], axis=2)
            held -= self.layers_again[:, :, :size]
        return np.asarray(held)

    def fill_ns(self, pp: int) -> Array:
        """Candidates x ranks: what R1 counts at least of the stages of the first position before a rank, which hold a
        layer each but for the first; and the hops there and back."""
        rank = np.arange(pp)
        shortest = duration_ns(self.kinds).min(axis=1)
        return np.asarray(np.maximum(rank - 1, 0) * shortest[:, None] + 2 * rank * self.hop_ns[:, None])

    def only(self, index: NDArray[Any]) -> "Prices":
        """Some of the candidates."""
        return Prices(*(getattr(self, field.name)[index] for field in fields(self)))

    def times(self, index: int, count: int) -> "Prices":
        """One of the candidates, so many times (not copied)."""
        columns = (getattr(self, field.name) for field in fields(self))
        return Prices(*(np.broadcast_to(column[index], (count, *column.shape[1:])) for column in columns))


def ub2_at(rows: Rows, base_ns: Array, stage_ns: Array) -> Array:
    """UB2 of placements (placements x stages) with given base times."""
    pp, vpp, *_ = rows.schedule
    excess = np.maximum(stage_ns - base_ns[:, None], 0).reshape(len(stage_ns), vpp, pp)
    waves = rows.waves * excess.max(axis=2).sum(axis=1) + rows.rounds * excess.sum(axis=(1, 2))
    return np.asarray(rows.span * base_ns + waves)


def sums_over_layers(grid: Grid, by_kind: Array) -> Array:
    """Candidates x measures x (layers + 1): sums over the first layers of prices by kind."""
    sums = np.cumsum(by_kind[:, [grid.kinds.index(layer) for layer in grid.layers]], axis=1)
    return np.concatenate([np.zeros_like(by_kind[:, :1]), sums], axis=1).transpose(0, 2, 1)


def _measures(costs: Costs, piece: Piece) -> tuple[object, ...]:
    forward: Mapping[Piece, object] = costs.forward
    return forward[piece], costs.time[piece] - costs.forward[piece], costs.static[piece], costs.kept[piece]


def fixed_bytes(grid: Grid, rows: Rows, costs: Costs) -> Array:
    """Bytes of every memory row that do not depend on the placement: candidates x memory rows. What a running layer
    takes, and what a rank with one has once, counts where a stage is certain to have one, of a kind that it may be."""
    holds_loss, runs_loss = rows.resident[:, -1] > 0, rows.flight[:, -1] > 0
    holds_embedding = rows.resident[:, 0] > 0

    def column(value: object) -> Array:
        return np.asarray(value, dtype=float)[:, None]

    def layer(size: Callable[[LayerKind], Number], counts: Array) -> Array:
        least = [(minimum(*map(size, kinds)), (counts * mask).any(axis=1)) for kinds, mask in grid.sure_kinds]
        return np.asarray(reduce(np.maximum, (column(bytes_) * held for bytes_, held in least), np.zeros((1, 1))))

    running = np.maximum(layer(costs.passing.__getitem__, rows.flight), column(costs.passing["loss"]) * runs_loss)
    present = layer(lambda kind: costs.once(layer_features(kind)), rows.resident) + column(costs.with_loss) * holds_loss
    present = present + column(costs.with_embedding) * holds_embedding
    in_flight = column(costs.chunk_kept) * rows.flight.sum(axis=1)
    return np.asarray(column(costs.fixed + grid.vpp * np.asarray(costs.chunk_fixed)) + running + present + in_flight)
