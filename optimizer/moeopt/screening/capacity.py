"""How many layers the ranks of a pipeline can hold at most, under a time and a memory limit: counted rank by rank.

The bounds of `average` are means over ranks; layers are indivisible, so what every rank can hold is rounded down
here before it is added up. A rank's chunks each take a limited time (`longest_chunk_ns`), the rank as a whole does
(`longest_rank_ns`), and for every vector of micro-batches in flight its bytes stay within the limit. Layers come in
their order, so the layers of a stage are a window of the architecture's: a window with m layers of the counted sort
costs at least that of the first one, plus the least rise a further one for each of the others.

Counted twice: all layers, and only those of the commonest kind (others then count nothing, but cost what a window that
contains them must hold). If the ranks together cannot hold what the architecture has, no placement is within both
limits. The MTP modules are tried on every rank; the stages after them hold no layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number
from moeopt.layout import Degrees
from moeopt.problem.problem import Problem
from moeopt.schedule.in_flight import in_flight_vectors
from moeopt.screening.costs import Costs
from moeopt.screening.limits import Column
from moeopt.screening.windows import Counted, Window, counted_sorts

_NOTHING_FITS = -(10**6)
"""Layers of a rank that cannot even hold what it must."""


@dataclass(frozen=True)
class Ceilings:
    """Columns: the longest chunk and the longest rank for one micro-batch (ns); and the bytes of a GPU."""

    chunk_ns: Column
    rank_ns: Column
    memory_bytes: int

    def rows(self, index: NDArray[np.int64]) -> "Ceilings":
        """Some of the rows."""
        return Ceilings(self.chunk_ns[index], self.rank_ns[index], self.memory_bytes)


_MOST_CELLS = 2**20
"""Entries of one array: larger groups of rows are taken in parts."""


def can_hold(
    problem: Problem, degrees: Degrees, costs: Costs, ceilings: Ceilings, ep_overlap: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which rows can hold all layers, as far as counting tells."""
    result = np.ones(len(degrees.pp), dtype=bool)
    for pp, vpp in sorted(set(zip(degrees.pp.tolist(), degrees.vpp.tolist(), strict=True))):
        chosen = np.flatnonzero((degrees.pp == pp) & (degrees.vpp == vpp))
        part = max(_MOST_CELLS // (pp * vpp * (vpp + 2)), 1)
        for first in range(0, len(chosen), part):
            index = chosen[first : first + part]
            flight = _flights(pp, vpp, degrees, index, ep_overlap)
            for vectors in dict.fromkeys((1, flight.shape[2])):  # what one vector rules out is most of it
                left = np.flatnonzero(result[index])
                rows, some = index[left], flight[left, :, :vectors]
                result[rows] = _Ranks(problem, costs.rows(rows), ceilings.rows(rows), some).enough()
    return result


def _flights(pp: int, vpp: int, degrees: Degrees, index: NDArray[np.int64], ep_overlap: NDArray[np.bool_]) -> Column:
    """Micro-batches in flight: rows x ranks x vectors x chunks, the last vector repeated where a rank has fewer."""
    shapes = np.stack([degrees.num_microbatches[index], degrees.interleave_group[index], ep_overlap[index]], axis=1)
    unique, origin = np.unique(shapes, axis=0, return_inverse=True)
    listed = [_vectors(pp, vpp, *shape) for shape in unique.tolist()]
    most = max(vectors.shape[1] for vectors in listed)
    padded = [np.pad(vectors, ((0, 0), (0, most - vectors.shape[1]), (0, 0)), "edge") for vectors in listed]
    return np.array(padded)[origin.reshape(-1)]


@lru_cache(maxsize=1024)
def _vectors(pp: int, vpp: int, num_microbatches: int, group: int, ep_overlap: int) -> Column:
    """The same of one schedule: ranks x vectors x chunks."""
    shape = pp, vpp, num_microbatches, group
    ranks = [in_flight_vectors(*shape, rank, bool(ep_overlap)) for rank in range(pp)]
    most = max(len(vectors) for vectors in ranks)
    return np.array([[*vectors, *[vectors[-1]] * (most - len(vectors))] for vectors in ranks], dtype=np.int64)


@dataclass(frozen=True)
class _Fill:
    """What the chunks of a rank must and may hold: `certain` a counted layer, `must` any layer, at most `most` counted
    ones (rows x ranks x chunks, or without the rows)."""

    certain: NDArray[np.bool_]
    must: NDArray[np.bool_]
    most: Column

    def count(self, room: Column, base: Column, first: Column, more: Column) -> Column:
        """Counted layers within the room (rows x ranks x vectors) at prices with a last axis of chunks: the cheapest
        first. A further layer may be taken without the first one, which only ever counts too many."""
        certain, free = self.certain[..., None, :], (self.must & ~self.certain)[..., None, :]
        must = np.broadcast_to(self.must[..., None, :], first.shape)
        room = room - (first * certain).sum(axis=-1) - (base * free).sum(axis=-1)
        most = np.broadcast_to(self.most[:, :, None, :], first.shape)
        units = np.concatenate([np.minimum(most, 1) * ~certain, np.maximum(most - 1, 0)], axis=-1)
        price = np.concatenate([np.maximum(first - base * must, 0), more], axis=-1)
        order = np.argsort(price, axis=-1)
        units, price = np.take_along_axis(units, order, -1), np.take_along_axis(price, order, -1)
        spent = np.cumsum(units * price, axis=-1)
        left = room[..., None] - (spent - units * price)
        taken = np.clip(np.minimum(units, left // np.maximum(price, 1)), 0, None)
        whole = np.where(spent <= room[..., None], units, np.where(left > 0, taken, 0))
        held = whole.sum(axis=-1) + self.certain.sum(axis=-1)[..., None]
        return np.asarray(np.where(room < 0, _NOTHING_FITS, held))


@dataclass(frozen=True)
class _Cases:
    """What a rank may be (columns), all looked at together."""

    rank: NDArray[np.int64]
    started: NDArray[np.bool_]
    """Stage 0, where the rank has it, holds a counted layer; then it holds those before it too."""
    ends: NDArray[np.bool_]
    """The last chunk holds the MTP modules, and layers or none; or it is behind them and holds nothing."""
    mtp: NDArray[np.bool_]
    """It holds the MTP modules."""

    @classmethod
    def of(cls, pp: int, has_mtp: bool) -> "_Cases":
        """Every rank with layers on its last chunk; where there are MTP modules, every rank with these, and every one
        behind them; and rank 0 without a counted layer on stage 0."""
        kinds = 3 if has_mtp else 1
        kind = np.append(np.repeat(np.arange(kinds), pp), 0)
        started = np.arange(len(kind)) < kinds * pp
        return cls(np.append(np.tile(np.arange(pp), kinds), 0), started, kind > 0, kind == 1)


class _Ranks:
    """The ranks of rows that share a pipeline grid; arrays are rows x ranks x vectors x chunks, or fewer axes."""

    def __init__(self, problem: Problem, costs: Costs, ceilings: Ceilings, flight: Column) -> None:
        self.problem, self.costs, self.flight = problem, costs, flight
        self.count, self.pp, _, self.vpp = flight.shape
        self.limit_bytes = ceilings.memory_bytes
        self.chunk_ns, self.rank_ns = ceilings.chunk_ns, ceilings.rank_ns
        cheapest = np.minimum.reduce([costs.time[kind] for kind in problem.architecture.kinds])
        self._deepest = int((self.chunk_ns // np.maximum(cheapest, 1)).max(initial=0)) + 2
        """More layers than any stage has time for."""

    def enough(self) -> NDArray[np.bool_]:
        """Whether the layers fit, by every way of counting."""
        result = np.ones(self.count, dtype=bool)
        for counted in counted_sorts(self.problem.architecture.layers):
            result &= self._total(counted) >= counted.total
        return result

    def _total(self, counted: Counted) -> Column:
        """Counted layers that the ranks hold together at most."""
        held = self._held(counted, _Cases.of(self.pp, self.problem.mtp_layers > 0))
        plain, *others = np.split(held[:, :-1], (held.shape[1] - 1) // self.pp, axis=1)
        plain[:, 0] = np.maximum(plain[:, 0], held[:, -1])
        if not others:
            return np.asarray(plain.sum(axis=1))
        modules, none = others
        before = np.cumsum(plain, axis=1) - plain
        after = none.sum(axis=1)[:, None] - np.cumsum(none, axis=1)
        totals = before + modules + after
        first = 0 if self.pp == 1 else 1
        return np.asarray(totals[:, first:].max(axis=1))

    def _held(self, counted: Counted, cases: "_Cases") -> Column:
        """Counted layers of a rank at most, in each of some cases: rows x cases, which take the place of ranks here."""
        stages = cases.rank[:, None] + self.pp * np.arange(self.vpp)
        final = np.arange(self.vpp) == self.vpp - 1
        flight, start = self.flight[:, cases.rank], stages == 0
        must = (stages > 0) & (stages < self.pp * self.vpp - 1) & ~(final & cases.ends[:, None])
        certain = (self._certain(counted)[stages] & must) | (start & cases.started[:, None])
        open_ = (~start | cases.started[:, None]) & ~(final & (cases.ends & ~cases.mtp)[:, None])
        # Time of a chunk and of a rank.
        extra = self._special(self.costs.time, stages, cases)
        moments, static, kept = (self._windows(name, counted) for name in ("time", "static", "kept"))
        base, first, more = (self._spread(moments, name, start) for name in ("base", "first", "more"))
        left = self.chunk_ns[:, None, None] - extra
        most = np.where(left >= first, 1 + (left - first) // np.maximum(more, 1), 0) * open_
        impossible = (must & (left < base)) | (certain & (most < 1)) | (left < 0)
        shape = _Fill(certain, must, most)
        room = self.rank_ns[:, None] - extra.sum(axis=2)
        held = shape.count(room[:, :, None], base[:, :, None, :], first[:, :, None, :], more[:, :, None, :])[:, :, 0]
        # Bytes of a rank, for every vector in flight.
        prices = [
            self._spread(static, name, start)[:, :, None, :] + flight * self._spread(kept, name, start)[:, :, None, :]
            for name in ("base", "first", "more")
        ]
        room = self._room(stages, flight, must | certain, cases)
        held = np.minimum(held, shape.count(room, *prices).min(axis=2))
        return np.where(impossible.any(axis=2), _NOTHING_FITS, held)

    def _certain(self, counted: Counted) -> NDArray[np.bool_]:
        """Stages all of whose layers are counted ones, whatever the placement: stage s starts at layer s - 1 or
        later, as inner stages are not empty."""
        return np.arange(self.pp * self.vpp) - 1 > counted.last_other

    def _windows(self, name: str, counted: Counted) -> list[Window]:
        """By one of the costs: a window anywhere, and one at the start."""
        columns = [getattr(self.costs, name)[kind] for kind in self.problem.architecture.kinds]
        return [counted.window(columns, self._deepest, at_start) for at_start in (False, True)]

    @staticmethod
    def _spread(windows: list[Window], name: str, start: NDArray[np.bool_]) -> Column:
        """Rows x ranks x chunks: the window at the start for stage 0, any other elsewhere."""
        anywhere, at_start = (getattr(window, name)[:, None, None] for window in windows)
        return np.asarray(np.where(start[None], at_start, anywhere))

    def _special(self, prices: Mapping[Piece, Number], stages: Column, cases: "_Cases") -> Column:
        """What the pieces beside decoder layers add: rows x ranks x chunks."""
        last = self.pp * self.vpp - 1

        def column(piece: Piece) -> Column:
            return np.asarray(prices[piece])[:, None, None]

        total = column("embedding") * (stages == 0) + column("loss") * (stages == last)
        if cases.mtp.any():
            modules = (stages >= self.pp * (self.vpp - 1)) & cases.mtp[:, None]
            total = total + self.problem.mtp_layers * column("mtp") * modules
        return np.asarray(total)

    def _room(self, stages: Column, flight: Column, sure: NDArray[np.bool_], cases: "_Cases") -> Column:
        """Bytes that are left for layers, for every vector in flight: rows x ranks x vectors."""
        last = self.pp * self.vpp - 1

        def column(value: Number) -> Column:
            return np.asarray(value)[:, None, None]

        kept = self._special(self.costs.kept, stages, cases) + column(self.costs.chunk_kept)
        in_flight = (flight * kept[:, :, None, :]).sum(axis=3)
        always = self._special(self.costs.static, stages, cases).sum(axis=2)[:, :, None]
        holds_layer = np.any(sure, axis=1)[None, :, None]
        passes_layer = np.any(sure[:, None, :] & (flight >= 1), axis=3)
        passes_loss = np.any((stages == last)[:, None, :] & (flight >= 1), axis=3)
        size = np.maximum(
            column(self.costs.passing_layer) * passes_layer, column(self.costs.passing["loss"]) * passes_loss
        )
        present = column(self.costs.with_layer) * holds_layer
        present = present + column(self.costs.with_loss) * (stages == last).any(axis=1)[None, :, None]
        present = present + column(self.costs.with_embedding) * (stages == 0).any(axis=1)[None, :, None]
        fixed = column(self.costs.fixed + self.vpp * self.costs.chunk_fixed)
        return np.asarray(self.limit_bytes - fixed - always - in_flight - size - present)
