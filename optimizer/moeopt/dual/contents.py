"""What the chunks of one rank may hold: every way that fits into its memory, as columns.

Memory couples the chunks of a rank, and no two ranks; so a rank is settled on its own, in whole layers and with all its
rows. Layers come in order: other kinds first (the prefix), then layers of one kind, which are counted. Where layers
alternate there is no prefix, all of them are counted, and so many cost what the cheapest ones in a row do, time and
bytes each for itself: no more than any of a placement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from moeopt.accounting.memory.stage import piece_features
from moeopt.accounting.pieces import Piece
from moeopt.arithmetic import Number
from moeopt.dual.grid import Array, Grid
from moeopt.dual.prices import Prices, Rows, duration_ns
from moeopt.dual.tables import Index, Mask
from moeopt.dual.tops import SLACK
from moeopt.problem.problem import Problem
from moeopt.screening.costs import Costs

_LONGEST_PREFIX = 6
"""Each place where a prefix may be cut is a role; a longer one is counted with the other layers."""
_MOST = 10_000
"""Ways of one rank that are looked at; a rank with more is not."""
_CELLS = 2**17
"""Entries of one array: ways times memory rows."""
_MANY = 64
"""Ways that are fewer are not looked at for whether they will have enough layers."""
_SMALLEST = 1e-6
"""Bytes or nanoseconds of a layer that takes none; and layers that rounding may hide."""


class Role(NamedTuple):
    """What a rank begins with and where it is: layers of the prefix before it and on it, and whether the layers end
    after it (0), on it (1) or before it (2), seen at the last chunk."""

    before: int
    taken: int
    phase: int


@dataclass(frozen=True)
class Contents:
    """Ways to fill a rank (columns), role by role and fewest counted layers first."""

    role: Index
    """Which of the rank's roles."""
    total: Index
    """Counted layers in all."""
    counts: Index
    """Counted layers of every chunk: ways x chunks, as what follows."""
    time_ns: Array
    forward_ns: Array
    backward_ns: Array

    def only(self, mask: Mask | Index) -> "Contents":
        """Some of the ways."""
        return Contents(*(getattr(self, field.name)[mask] for field in fields(self)))


@dataclass(frozen=True)
class Holding:
    """What one candidate's ranks may hold, and what of it no layer counts for itself."""

    problem: Problem
    costs: Costs
    """Columns of one row."""
    memory_bytes: int

    def room(self, grid: Grid, flight: Array) -> Array:
        """Bytes of a rank left for its pieces, by memory row."""
        fixed = _one(self.costs.fixed) + grid.vpp * _one(self.costs.chunk_fixed)
        return np.asarray(self.memory_bytes - fixed - _one(self.costs.chunk_kept) * flight.sum(axis=1))

    def passing(self, piece: Piece) -> int:
        """Bytes that pass while a piece runs."""
        return _one(self.costs.passing[piece])

    def once(self, pieces: Sequence[Piece]) -> int:
        """Bytes once on a rank that has these pieces."""
        features = {feature for piece in pieces for feature in piece_features(self.problem, piece)}
        return _one(self.costs.once(features))


class TooMany(Exception):  # noqa: N818 - not an error: a way out of the loops
    """A rank can be filled in more ways than are worth looking at."""


@dataclass(frozen=True)
class Frame:
    """What a rank holds besides counted layers (roles x chunks x measures), and counted layers of every chunk at least
    and at most (roles x chunks)."""

    fixed: Array
    fewest: Index
    most: Index


class Filling:
    """The ranks of one candidate. Measures are those of `_measures`."""

    def __init__(self, grid: Grid, rows: Rows, prices: Prices, holding: Holding) -> None:
        """`prices` of one candidate."""
        self.grid, self.rows, self.prices, self.holding = grid, rows, prices, holding
        self.prefix = prefix_of(grid)
        self._places = places(grid, self.prefix)
        self.counted = len(grid.layers) - self.prefix
        sums = _measures(prices.layers[0].T)
        self._first = sums[: self.prefix + 1]
        """Of the first layers of the prefix."""
        self.window = np.array(
            [(sums[self.prefix + n :] - sums[self.prefix : len(sums) - n]).min(axis=0) for n in range(self.counted + 1)]
        )
        """Of so many counted layers at least."""

    @cached_property
    def fill_ns(self) -> Array:
        """By rank, as `Prices.fill_ns`."""
        return np.asarray(self.prices.fill_ns(self.grid.pp)[0])

    def longest_ns(self, rank: int) -> float:
        """What one micro-batch takes on a rank at most: R1 is within the target, beside UB2, which is no less than all
        ranks on average."""
        if not self.rows.timed:
            return float("inf")
        microbatches = self.rows.schedule[2]
        even = microbatches * float(duration_ns(self.prices.totals)[0]) / self.grid.pp if self.rows.surrogate else 0.0
        target = float(self.prices.target_ns[0]) * (1 + SLACK)
        return (target - even - float(self.fill_ns[rank])) / microbatches

    def roles(self, rank: int) -> list[Role]:
        """The roles that a rank may have."""
        return self._places[rank].roles

    def contents(self, rank: int, most: int, ways: int = _MOST, fewest: float = 0) -> Contents:
        """Every way to fill a rank with at most so many counted layers a chunk, and at least `fewest` in all. Raises
        TooMany where there are more than `ways` in one role, as far as that shows on the way."""
        frame, flight = self._frame(rank, most), self.flight(rank)
        rest = Rest(self, rank, frame)
        role, counts = np.arange(len(frame.fixed)), np.zeros((len(frame.fixed), 0), dtype=np.int64)
        used, spent = rest.used, rest.spent
        for chunk in range(self.grid.vpp):
            more, may = self._further(frame, chunk)
            grow = more[:, :, None, 1] + flight[:, chunk] * more[:, :, None, 2]
            later = spent[:, None] + more[role, :, 0]
            way, step = np.nonzero(may[role] & (later <= rest.longest_ns))
            fits, used = _fitting(used, grow, (way, role[way], step), rest.room)
            way, step = way[fits], step[fits]
            role, spent, counts = role[way], later[way, step], np.column_stack([counts[way], step])
            if fewest > 0 and len(role) > _MANY:
                enough = counts.sum(axis=1) + rest.most(chunk + 1, role, used, spent) >= fewest
                role, spent, counts, used = role[enough], spent[enough], counts[enough], used[enough]
            if np.bincount(role).max(initial=0) > ways:
                raise TooMany
        fits = np.flatnonzero((used + self._beside(rank, role, flight, counts) <= rest.room).all(axis=1))
        fits = fits[np.lexsort((counts[fits].sum(axis=1), role[fits]))]
        role, counts = role[fits], counts[fits]
        times = (frame.fixed[role, :, measure] + self.window[counts, measure] for measure in (0, 3, 4))
        return Contents(role, counts.sum(axis=1), counts, *times)

    def most(self, rank: int, most: int) -> float:
        """Counted layers that a rank holds with at most so many a chunk: no fewer than in any way to fill it."""
        rest = Rest(self, rank, self._frame(rank, most))
        return float(rest.most(0, np.arange(len(rest.used)), rest.used, rest.spent).max(initial=-np.inf))

    def _frame(self, rank: int, most: int) -> Frame:
        place = self._places[rank]
        return Frame(self._fixed(rank), place.fewest, np.minimum(place.most, most))

    def _further(self, frame: Frame, chunk: int) -> tuple[Array, Mask]:
        """What so many counted layers on a chunk add to the fewest (roles x layers x measures), and which it may hold
        (roles x layers): as the role says, and no longer than any stage."""
        fewest, most = frame.fewest[:, chunk, None], frame.most[:, chunk, None]
        steps = np.arange(most.max(initial=0) + 1)
        time = frame.fixed[:, chunk, None, 0] + self.window[steps, 0]
        may = (steps >= fewest) & (steps <= most) & (time <= self.prices.longest_ns[0])
        return self.window[steps] - self.window[np.minimum(fewest, self.counted)], may

    def _beside(self, rank: int, role: Index, flight: Array, counts: Index) -> Array:
        """Bytes once on the rank for what it has, and what passes in its largest running piece: ways x memory rows."""
        held = [self._pieces(rank, each) for each in self.roles(rank)]
        kinds, runs = set(self.grid.layers[self.prefix :]), flight > 0
        largest = [[max(map(self.holding.passing, pieces), default=0) for pieces in chunks] for chunks in held]
        pieces = (runs * np.array(largest, dtype=float).reshape(-1, 1, self.grid.vpp)).max(axis=2)
        layers = np.zeros((len(counts), len(flight)), dtype=bool)
        for chunk in range(self.grid.vpp):
            layers |= (counts[:, chunk, None] > 0) & runs[:, chunk]
        layer = min(map(self.holding.passing, kinds))
        every = [[piece for pieces in chunks for piece in pieces] for chunks in held]
        with_layer = np.array([min(self.holding.once([*each, kind]) for kind in kinds) for each in every])
        without = np.array([self.holding.once(each) for each in every])
        once = np.where(counts.any(axis=1), with_layer[role], without[role])
        return np.asarray(np.maximum(pieces[role], layers * layer) + once[:, None])

    def _pieces(self, rank: int, role: Role) -> list[list[Piece]]:
        """What every chunk holds besides counted layers."""
        grid = self.grid
        held: list[list[Piece]] = [[] for _ in range(grid.vpp)]
        held[0] += grid.layers[role.before : role.before + role.taken]
        held[0] += ["embedding"] * (rank == 0)
        held[-1] += ["mtp"] * (role.phase == 1 and grid.mtp_layers > 0)
        held[-1] += ["loss"] * (rank == grid.pp - 1)
        return held

    def _fixed(self, rank: int) -> Array:
        """Roles x chunks x measures: all but the counted layers."""
        mine, before, taken, phase = self.prices, *np.array(self.roles(rank)).reshape(-1, 3).T
        result = np.zeros((len(before), self.grid.vpp, 5))
        result[:, 0] += self._first[before + taken] - self._first[before]
        if rank == 0:
            result[:, 0] += _measures(mine.embedding[0])
        result[phase == 1, -1] += _measures(mine.mtp[0])
        if rank == self.grid.pp - 1:
            result[:, -1] += _measures(mine.loss[0])
        return result

    def flight(self, rank: int) -> Array:
        """Memory rows of the rank x chunks."""
        return self.rows.flight[self.rows.resident[:, rank] > 0, rank :: self.grid.pp]


@dataclass(frozen=True)
class Place:
    """A rank of a grid: the roles that it may have; and counted layers that every chunk holds at least and at most,
    whatever fits (roles x chunks)."""

    roles: list[Role]
    fewest: Index
    most: Index


@lru_cache(maxsize=64)
def places(grid: Grid, prefix: int) -> list[Place]:
    """Every rank, with so many layers before those that are counted."""
    return [_place(grid, prefix, rank) for rank in range(grid.pp)]


def _place(grid: Grid, prefix: int, rank: int) -> Place:
    ends = [grid.may_end(grid.final + each) for each in range(grid.pp)]
    phases = [phase for phase, may in enumerate((any(ends[rank + 1 :]), ends[rank], any(ends[:rank]))) if may]
    roles = [
        Role(before, taken, phase)
        for before, phase in product(range(prefix + 1), phases)
        if before <= rank * prefix and (before == prefix or before >= rank - 1)
        for taken in range(prefix - before + 1)
        if not (taken and phase == 2 and grid.vpp == 1)
    ]
    fewest = np.tile([grid.fewest(rank + grid.pp * chunk) for chunk in range(grid.vpp)], (len(roles), 1))
    most = np.full_like(fewest, len(grid.layers) - prefix)
    for role, least, limit in zip(roles, fewest, most, strict=True):
        if role.phase:
            least[-1] = 0
        if role.taken:
            least[0] = 0
        if role.before + role.taken < prefix:
            limit[0] = 0
        if role.phase == 2:
            limit[-1] = 0
    return Place(roles, fewest, most)


class Rest:
    """What a rank that is filled in part may still take: limits on all its chunks together."""

    def __init__(self, filling: Filling, rank: int, frame: Frame) -> None:
        """With the fewest layers on every chunk: bytes used (roles x memory rows) and ns spent (roles)."""
        self._frame, flight = frame, filling.flight(rank)
        self.room, self.longest_ns = filling.holding.room(filling.grid, flight), filling.longest_ns(rank)
        start = frame.fixed + filling.window[np.minimum(frame.fewest, filling.counted)]
        self.used = np.asarray((start[:, None, :, 1] + flight * start[:, None, :, 2]).sum(axis=2))
        self.spent = np.asarray(start[:, :, 0].sum(axis=1))
        self._layer = filling.window[min(1, filling.counted)]
        self._bytes = np.maximum(self._layer[1] + flight * self._layer[2], _SMALLEST)
        """Of a further layer, at least: memory rows x chunks."""
        self._spare = np.maximum(frame.most - frame.fewest, 0).max(axis=0, initial=0)
        """Layers beside the fewest, at most: chunks."""

    def most(self, chunk: int, role: Index, used: Array, spent: Array) -> Array:
        """Counted layers at most on this chunk and those after it, of ways that used so many bytes (x memory rows) and
        ns on those before it and for the fewest on the others. A row alone is filled by its chunks of the fewest bytes
        a layer."""
        further = (self.longest_ns - spent) / max(float(self._layer[0]), _SMALLEST)
        order = np.argsort(self._bytes[:, chunk:], axis=1, kind="stable")
        spare, bytes_ = self._spare[chunk:][order], np.take_along_axis(self._bytes[:, chunk:], order, axis=1)
        layers, filled = np.zeros((2, len(order), order.shape[1] + 1))
        np.cumsum(spare, axis=1, out=layers[:, 1:])
        np.cumsum(spare * bytes_, axis=1, out=filled[:, 1:])
        for row, left in enumerate((self.room - used).T):
            further = np.minimum(further, np.interp(left, filled[row], layers[row]))
        return np.asarray(further + self._frame.fewest[:, chunk:].sum(axis=1)[role] + _SMALLEST)


def _fitting(used: Array, grow: Array, at: tuple[Index, Index, Index], room: Array) -> tuple[Index, Array]:
    """Which further steps of ways fit, and the bytes used then (x memory rows). `at`: the way, its role and the step;
    `grow`: bytes of a role's step. In parts, as most of a long list does not fit."""
    way, role, step = at
    size = max(_CELLS // max(len(room), 1), 1)
    kept, bytes_ = [np.zeros(0, dtype=np.int64)], [np.zeros((0, len(room)))]
    for first in range(0, len(way), size):
        part = slice(first, first + size)
        grown = used[way[part]] + grow[role[part], step[part]]
        fits = np.flatnonzero((grown <= room).all(axis=1))
        kept.append(first + fits)
        bytes_.append(grown[fits])
    return np.concatenate(kept), np.concatenate(bytes_)


def prefix_of(grid: Grid) -> int:
    """Layers before those that are counted; 0 where they are too many, or not certain to be over when the first
    position is."""
    last = grid.layers[-1]
    length = next((i + 1 for i in reversed(range(len(grid.layers))) if grid.layers[i] != last), 0)
    fits = grid.vpp == 1 or length < grid.pp
    return length if fits and length <= _LONGEST_PREFIX else 0


def _one(column: Number) -> int:
    return int(np.asarray(column).reshape(-1)[0])


def _measures(of: Array) -> Array:
    """Time, bytes that stay, bytes that one micro-batch in flight keeps, and the time's forward and backward part."""
    return np.stack([of[..., 0] + of[..., 1], of[..., 2], of[..., 3], of[..., 0], of[..., 1]], axis=-1)
